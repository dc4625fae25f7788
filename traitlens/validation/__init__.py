"""What makes a vector trustworthy: what to hold out, held-out scores and figures, controls, calibration."""
