"""What grows with the runs that are stored: folders of any size, jobs that read and write them, a crew of 64 agents."""
