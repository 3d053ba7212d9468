"""The key file: private, made once whoever comes first, and refused when others could read it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from fhirserver.policy.keys import load_keys


def test_the_first_use_makes_a_private_file_that_later_uses_read(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "keys.json"
    keys = load_keys(path)
    assert load_keys(path) == keys
    assert path.stat().st_mode & 0o777 == 0o600
    assert [file.name for file in path.parent.iterdir()] == ["keys.json"]
    assert len(keys.page_key) == 32


def test_two_installations_have_nothing_in_common(tmp_path: Path) -> None:
    one, other = load_keys(tmp_path / "one"), load_keys(tmp_path / "other")
    assert one.issuer != other.issuer
    assert one.kid != other.kid
    assert one.private_key != other.private_key
    assert one.page_key != other.page_key
    assert one.pepper != other.pepper


def test_processes_that_start_at_once_get_the_same_keys(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    code = "import pathlib, sys, fhirserver.policy.keys as k; print(k.load_keys(pathlib.Path(sys.argv[1])).kid)"
    running = [subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE) for _ in range(4)]
    names = {process.communicate()[0] for process in running}
    assert len(names) == 1
    assert names == {load_keys(path).kid.encode() + b"\n"}


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o777])
def test_a_file_that_others_may_read_is_refused_with_the_remedy(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "keys.json"
    load_keys(path)
    path.chmod(mode)
    with pytest.raises(ValueError, match="chmod 600"):
        load_keys(path)


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b'{"issuer":"secret-words"}', b"\xff"])
def test_a_file_that_is_not_ours_is_refused_without_quoting_it(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "keys.json"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(ValueError, match="not one that this server wrote") as refused:
        load_keys(path)
    assert "secret-words" not in str(refused.value)
    assert path.read_bytes() == content


def test_keys_do_not_show_their_secrets(tmp_path: Path) -> None:
    keys = load_keys(tmp_path / "keys.json")
    assert "PRIVATE" not in repr(keys)
    assert repr(keys.pepper) not in repr(keys)
