"""What every DICOM peer of a node needs: listening, asking, decoding, the geometry of a series."""
