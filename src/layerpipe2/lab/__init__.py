"""What the study needs above the library: networks, data, runs, tuning, tracking."""
