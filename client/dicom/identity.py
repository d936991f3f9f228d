"""Who writes our DICOM files (PS3.10 7.1, PS3.7 D.3.3.2)."""

from typing import Final

from pydicom.uid import UID

IMPLEMENTATION_CLASS_UID: Final = UID("2.25.114931470318137428157146571943157128037")
IMPLEMENTATION_VERSION_NAME: Final = "VIGIE_0_1"
MANUFACTURER: Final = "Vigie"
