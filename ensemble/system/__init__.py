"""What any command needs of the machine: signals, exits, locks, processes, keyed seeds."""
