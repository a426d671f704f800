"""Everything that knows a config, a device, a logger or a step number."""
