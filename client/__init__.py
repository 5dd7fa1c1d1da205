"""A hospital: owns the patients' data and answers questions."""
