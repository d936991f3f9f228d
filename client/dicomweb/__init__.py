"""DICOMweb over the node's archive: STOW-RS in, QIDO-RS and WADO-RS out, and the viewer that reads from them."""
