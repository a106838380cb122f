"""Which design to choose: what each would give, before any is drawn."""
