"""What to run: sweep files, kinds of node, shapes of models, read and checked."""
