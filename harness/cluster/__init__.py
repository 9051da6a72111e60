"""Where agents live. Local, in process, is the default."""
