"""The run folder, without torch: config, files, records, who may vote."""
