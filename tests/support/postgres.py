"""A PostgreSQL server of its own on a free port, with a password; run as the user postgres, since it refuses root."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from models.children import free_port

PASSWORD = "correct horse/battery@staple:1"


class Postgres:
    """Started at once; `stop` it, `restart` it as after a power cut."""

    def __init__(self) -> None:
        self._programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"))[-1]
        self.port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix="vigie-postgres-"))
        self._as: dict[str, Any] = {"user": "postgres", "group": "postgres"} if os.geteuid() == 0 else {}
        self.folder.chmod(0o755)
        secret = self.folder / "password"
        secret.write_text(PASSWORD)
        if self._as:
            shutil.chown(self.folder, "postgres", "postgres")
        data = str(self.folder / "data")
        self._run("initdb", "-D", data, "-U", "vigie", "-A", "scram-sha-256", f"--pwfile={secret}", "-E", "UTF8")
        options = f"-c port={self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={self.folder}"
        self._start = ("pg_ctl", "-D", data, "-w", "-l", str(self.folder / "log"), "-o", options, "start")
        self._run(*self._start)

    @property
    def uri(self) -> str:
        return f"postgresql://vigie@127.0.0.1:{self.port}/postgres"

    def restart(self) -> None:
        """Without a checkpoint: what was acknowledged has to come back from its log."""
        self._run("pg_ctl", "-D", str(self.folder / "data"), "-m", "immediate", "stop")
        self._run(*self._start)

    def stop(self) -> None:
        self._run("pg_ctl", "-D", str(self.folder / "data"), "-m", "immediate", "stop")
        shutil.rmtree(self.folder)

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self._programs / program), *arguments]
        done = subprocess.run(
            command, cwd=self.folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False, **self._as
        )
        assert done.returncode == 0, done.stderr.decode()[-2000:]
