"""The commands' interface to the machine: signals, exits, locks, processes, seeding."""
