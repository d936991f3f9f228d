"""DICOM in and out of a hospital: gateway, archive, decoding, result objects, sending."""
