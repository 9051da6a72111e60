"""What runs inside an engine's process or above it, in its environment: standard library only, Python 3.9 or newer."""
