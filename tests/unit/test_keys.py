"""The key file: private, made once whoever comes first, and refused when others could read it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from fhirserver.policy.keyring import Keyring
from fhirserver.policy.keys import load_keys, rotate


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


YEAR = 365 * 24 * 3_600_000
NOW = 1_800_000_000_000


def test_a_file_of_an_earlier_release_is_read(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    keys = load_keys(path)
    older = {name: value for name, value in json.loads(path.read_bytes()).items() if name != "earlier"}
    path.write_text(json.dumps(older))
    assert load_keys(path) == keys


def test_a_rotation_changes_the_signing_key_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    first = load_keys(path)
    second = rotate(path, NOW, keep=YEAR)
    assert load_keys(path) == second
    assert path.stat().st_mode & 0o777 == 0o600
    assert [file.name for file in tmp_path.iterdir()] == ["keys.json"]
    assert (second.issuer, second.page_key, second.pepper) == (first.issuer, first.page_key, first.pepper)
    assert second.verifying(NOW).keys() == {first.kid, second.kid}
    assert first.private_key not in path.read_text()


def test_an_earlier_key_verifies_until_its_end(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    first = load_keys(path)
    rotate(path, NOW, keep=1000)
    third = rotate(path, NOW + 500, keep=1000)
    assert first.kid in third.verifying(NOW + 999)
    assert first.kid not in third.verifying(NOW + 1000)
    assert third.verifying(NOW + 1500).keys() == {third.kid}
    assert [key.kid for key in rotate(path, NOW + 1000, keep=1).earlier][1:] == [third.kid]
    assert rotate(path, NOW + 1000, keep=0).earlier == ()


def test_rotations_at_once_lose_no_key(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    load_keys(path)
    code = "import pathlib, sys, fhirserver.policy.keys as k; print(k.rotate(pathlib.Path(sys.argv[1]), 1, keep=9).kid)"
    running = [subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE) for _ in range(4)]
    names = {process.communicate()[0].decode().strip() for process in running}
    assert len(names) == 4
    assert names <= load_keys(path).verifying(2).keys()


def test_a_running_server_looks_at_the_file_once_a_second_and_for_an_unknown_key(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    first = load_keys(path)
    ring = Keyring(first, path)
    assert ring.current(NOW) == first
    second = rotate(path, NOW, keep=YEAR)
    assert ring.current(NOW + 999) == first
    assert ring.current(NOW + 1000) == second
    third = rotate(path, NOW, keep=YEAR)
    assert ring.verifying("nobody", NOW + 1001) is None
    assert ring.held == third


def test_a_file_that_is_damaged_later_leaves_the_last_good_keys(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    first = load_keys(path)
    ring = Keyring(first, path)
    path.write_bytes(b"{}")
    assert ring.current(NOW) == first
    path.unlink()
    assert ring.current(NOW + 1000) == first
    assert not path.exists()


def test_the_file_of_another_installation_is_not_taken_up(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    first, other = load_keys(path), load_keys(tmp_path / "other.json")
    ring = Keyring(first, path)
    (tmp_path / "other.json").replace(path)
    assert load_keys(path) == other
    assert ring.current(NOW) == first
    assert ring.verifying(other.kid, NOW) is None
