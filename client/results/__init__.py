"""The DICOM objects of an outcome: made, checked, amended."""
