"""What is made of measurements: readers of published ones, later features, models and scores."""
