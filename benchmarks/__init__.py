"""What is measured: each script writes results/NAME.json."""
