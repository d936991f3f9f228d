"""Prints what a coordinator's registry says of a model: `registered.py FOLDER NAME`."""

import json
import sys
from pathlib import Path

from scripts.version_commands import registry_of

with registry_of(Path(sys.argv[1])) as registry:
    known = {
        version.number: {
            "digest": version.digest,
            "tags": registry.tags(version),
            "metrics": registry.metrics(version),
        }
        for version in registry.versions(sys.argv[2])
    }
print(json.dumps(known))
