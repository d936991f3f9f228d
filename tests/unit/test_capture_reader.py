"""What tshark says about a capture reaches the person who asked, however much it is."""

import pytest

from client.federation.capture import CaptureUnreadable, read

_TALKATIVE = """#!/bin/sh
head -c 300000 /dev/zero | tr '\\0' 'x' >&2
echo >&2
echo 'cut short in the middle of a packet' >&2
exit 2
"""


@pytest.mark.timeout(60)
def test_a_long_complaint_does_not_hold_it_up(tmp_path, monkeypatch):
    talkative = tmp_path / "tshark"
    talkative.write_text(_TALKATIVE)
    talkative.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(CaptureUnreadable, match="cut short"):
        list(read(tmp_path / "border.pcap", 9092))


def test_without_tshark_it_says_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CaptureUnreadable, match="not installed"):
        list(read(tmp_path / "border.pcap", 9092))
