"""``python -m relstab.config`` writes config.yaml and configs/schema.json; with ``--check`` it only compares them."""

import sys
from pathlib import Path

from relstab.config.document import FILES

differing = [path for path, text in FILES.items() if not Path(path).is_file() or Path(path).read_text() != text()]
if "--check" in sys.argv:
    sys.exit(f"expected {' and '.join(differing)} as the models write them: run `make schema`" if differing else 0)
for path in differing:
    Path(path).write_text(FILES[path]())
