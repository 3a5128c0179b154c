"""The deterministic simulation: executors, store, clock, scheduler and provider, all driven by one seed."""
