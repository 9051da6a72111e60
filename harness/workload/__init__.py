"""What the serving engine is asked to do: traces, their slices, token lengths and prompts."""
