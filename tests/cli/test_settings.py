"""One configuration from flags, environment and file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import p2p
from http_control import Bind
from p2p.cli.settings import (
    _NUMBERS,
    KEYS,
    LEVELS,
    ON_OFF,
    SWITCHES,
    Layer,
    Settings,
    UsageError,
    from_environment,
    from_file,
    from_flags,
    settle,
)
from p2p.ids import PeerEndpoint
from tests.cli.processes import p2p_refuses

NOTHING = Layer()
HOME = {"HOME": "/home/u"}


def settled(
    flags: dict[str, Any] | None = None, environment: dict[str, str] | None = None, file: Layer = NOTHING
) -> Settings:
    return settle(from_flags({"id": "A"} | (flags or {})), from_environment(environment or {}), file, HOME)


def toml(tmp_path: Path, text: str) -> Layer:
    path = tmp_path / "node.toml"
    path.write_text(text)
    return from_file(path)


def test_the_defaults() -> None:
    settings = settled()
    assert (settings.listen, settings.stats_every, settings.connect, settings.run) == (0, 1000, (), None)
    assert settings.data_dir == Path("/home/u/.local/state/p2p/A")
    assert not (settings.tui or settings.json or settings.quiet or settings.open or settings.no_connect)
    assert settings.log_level == LEVELS["info"]


def test_flags_win_over_environment_over_file_over_default(tmp_path: Path) -> None:
    file = toml(tmp_path, "listen = 1\nstats_every = 1\nnetwork = 'file'\nquiet = true\n")
    settings = settled({"listen": 3}, {"P2P_LISTEN": "2", "P2P_STATS_EVERY": "2", "P2P_QUIET": "off"}, file)
    assert (settings.listen, settings.stats_every, settings.network, settings.run) == (3, 2, "file", None)
    assert settings.quiet is False


def test_every_flag_is_a_key_of_the_file_and_of_the_environment() -> None:
    from p2p.cli.app import cli

    flags = {parameter.name for parameter in cli.params if parameter.name not in {"config", "version"}}
    assert flags == set(KEYS)


def test_the_bounds_of_a_relay_and_the_age_of_what_is_for_somebody(tmp_path: Path) -> None:
    from p2p.cli.run import node_config

    file = toml(tmp_path, "relay = 'on'\nrelay_circuits = 7\nrelay_idle = 2.5\nexpire_after = 3600\n")
    environment = {"P2P_RELAY_BYTES_PER_S": "1000000", "P2P_RELAY_CIRCUITS_PER_PEER": "3"}
    config = node_config(
        settled({"relay_circuit_bytes": 5000, "relay_circuits_per_pair": 1, "memory": True}, environment, file)
    )
    limits = config.limits
    assert (limits.relay_circuits_max, limits.relay_circuits_per_peer_max, limits.relay_circuits_per_pair_max) == (
        7, 3, 1,
    )  # fmt: skip
    assert (limits.relay_bytes_per_s, limits.relay_circuit_bytes_max) == (1_000_000, 5000)
    assert (limits.relay_idle_s_max, config.expire_after_s) == (2.5, 3600)
    with pytest.raises(UsageError, match=r"--relay-idle bounds a relay.*--relay on"):
        settled({"relay_idle": 2.0})
    for text in ("0", "-1", "much"):
        with pytest.raises(UsageError, match=r"RELAY_CIRCUITS.*whole number from 1"):
            settled({}, {"P2P_RELAY": "on", "P2P_RELAY_CIRCUITS": text})


@pytest.mark.parametrize("source", ["file", "environment"])
def test_an_unknown_key_is_refused_with_its_place_and_a_guess(tmp_path: Path, source: str) -> None:
    with pytest.raises(UsageError) as caught:
        if source == "file":
            toml(tmp_path, "lisen = 9001\n")
        else:
            from_environment({"P2P_LISEN": "9001"})
    text = str(caught.value)
    assert ("node.toml" in text and "lisen" in text and "listen" in text) or (
        "environment" in text and "P2P_LISEN" in text and "P2P_LISTEN" in text
    )


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("listen = 'many'", "listen"),
        ("listen = 70000", "listen"),
        ("listen = true", "listen"),
        ("connect = ['a:1', 2]", "connect[1]"),
        ("connect = 'a:1'", "connect"),
        ("tui = 'maybe'", "tui"),
        ("stats_every = -1", "stats_every"),
        ("run = 0", "run"),
        ("log_level = 'loud'", "log_level"),
        ("[listen]\nport = 1", "listen"),
    ],
)
def test_a_bad_value_in_the_file_is_named_with_its_path(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(UsageError, match=r"node\.toml: ") as caught:
        toml(tmp_path, text)
    assert named in str(caught.value)


def test_a_file_has_two_words_for_on_and_off(tmp_path: Path) -> None:
    for yes, no in (("true", "false"), ("'on'", "'off'")):
        layer = toml(tmp_path, f"discovery = {yes}\nrelay = {no}\nopen = {yes}\nquiet = {no}\n")
        assert (layer.discovery, layer.relay, layer.open, layer.quiet) == ("on", "off", True, False)


def test_two_doors_need_two_ports() -> None:
    with pytest.raises(UsageError, match="--listen and --listen-ws are both 9001"):
        settled({"listen": 9001, "listen_ws": 9001})
    assert settled({"listen": 0, "listen_ws": 0}).listen_ws == 0


def test_a_file_may_begin_as_editors_on_windows_begin_it(tmp_path: Path) -> None:
    path = tmp_path / "node.toml"
    path.write_bytes(b"\xef\xbb\xbflisten = 9001\r\n")
    assert from_file(path).listen == 9001


@pytest.mark.parametrize("text", ["listen = ", "\x00", "a = 1\na = 2"])
def test_what_is_not_toml_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(UsageError, match="not TOML"):
        toml(tmp_path, text)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"absent\.toml: No such file"):
        from_file(tmp_path / "absent.toml")


@pytest.mark.parametrize("key", ["data_dir", "trust", "network_key_file"])
def test_an_empty_path_in_a_file_is_not_the_place_of_the_file(tmp_path: Path, key: str) -> None:
    file = tmp_path / "p2p.toml"
    file.write_text(f'{key} = ""\n')
    with pytest.raises(UsageError, match="it is empty; leave it out"):
        from_file(file)


def test_paths_in_a_file_are_relative_to_the_file(tmp_path: Path) -> None:
    settings = settled(file=toml(tmp_path, "data_dir = 'd'\ntrust = '/etc/trust'\nnetwork_key_file = '../k'\n"))
    assert settings.data_dir == tmp_path / "d"
    assert settings.trust == Path("/etc/trust")
    assert settings.network_key_file == tmp_path / ".." / "k"


@pytest.mark.parametrize(("text", "value"), [("1", True), ("ON", True), ("yes", True), ("false", False), ("0", False)])
def test_switches_in_the_environment(text: str, value: bool) -> None:
    assert settled(environment={"P2P_MEMORY": text, "P2P_DISCOVERY": "off"}).data_dir is None or not value
    assert from_environment({"P2P_MEMORY": text}).memory is value


def test_words_that_look_like_switches_stay_words_where_text_is_meant() -> None:
    layer = from_environment({"P2P_TUI": "on", "P2P_ID": "off", "P2P_LOG_LEVEL": "off", "P2P_LISTEN": "1"})
    assert (layer.tui, layer.id, layer.log_level, layer.listen) == ("on", "off", "off", 1)


def test_a_bad_switch_in_the_environment_is_named() -> None:
    with pytest.raises(UsageError, match="P2P_OPEN"):
        from_environment({"P2P_OPEN": "perhaps"})


def test_lists_in_the_environment() -> None:
    settings = settled(environment={"P2P_CONNECT": "a:1, tcp://[::1]:2  b:3"})
    assert settings.connect == (PeerEndpoint("a", 1), PeerEndpoint("::1", 2), PeerEndpoint("b", 3))


def test_variables_of_others_are_not_read() -> None:
    assert from_environment({"HOME": "/", "P2P_CONFIG": "x", "P2P_NOISE_VECTORS": "y", "MY_P2P_ID": "z"}) == NOTHING


@pytest.mark.parametrize("level", LEVELS)
def test_log_levels_and_their_aliases(level: str) -> None:
    assert settled({"log_level": level}).log_level == LEVELS[level]


def test_aliases_mean_the_same() -> None:
    for one, other in (("warn", "warning"), ("error", "err"), ("critical", "fatal"), ("off", "none")):
        assert LEVELS[one] == LEVELS[other]


def test_quiet_silences_the_log_unless_a_level_is_given() -> None:
    assert settled({"quiet": True}).log_level == LEVELS["warn"]
    assert settled({"quiet": True, "log_level": "debug"}).log_level == LEVELS["debug"]


def test_the_data_dir_follows_xdg() -> None:
    flags = from_flags({"id": "A"})
    assert settle(flags, NOTHING, NOTHING, HOME | {"XDG_STATE_HOME": "/s"}).data_dir == Path("/s/p2p/A")
    relative = settle(flags, NOTHING, NOTHING, HOME | {"XDG_STATE_HOME": "s"}).data_dir
    assert relative == Path("/home/u/.local/state/p2p/A")


@pytest.mark.parametrize("node_id", [".", "..", "..."])
def test_a_name_of_dots_never_becomes_a_directory(node_id: str) -> None:
    with pytest.raises(UsageError, match="--data-dir"):
        settled({"id": node_id})
    assert settled({"id": node_id, "memory": True}).data_dir is None


@pytest.mark.parametrize("network", ["\udcff", "x" * 257])
def test_a_network_name_is_utf8_and_not_too_long(network: str) -> None:
    with pytest.raises(UsageError, match="--network"):
        settled({"id": "A", "network": network})


@pytest.mark.parametrize("node_id", ["", "a b", "a/b", "ä", "a" * 65, "0" * 64, "a\n"])
def test_a_bad_node_id_is_refused(node_id: str) -> None:
    with pytest.raises(UsageError, match="--id"):
        settled({"id": node_id})


def test_a_node_needs_a_name() -> None:
    with pytest.raises(UsageError, match="--id A"):
        settle(NOTHING, NOTHING, NOTHING, HOME)


def test_memory_and_data_dir_exclude_each_other_in_one_place_only() -> None:
    with pytest.raises(UsageError, match="exclude"):
        settled({"memory": True, "data_dir": "d"})
    assert settled({"memory": True}, {"P2P_DATA_DIR": "d"}).data_dir is None
    assert settled({"data_dir": "d"}, {"P2P_MEMORY": "1"}).data_dir == Path("d")


def test_json_and_tui_exclude_each_other() -> None:
    with pytest.raises(UsageError, match="--tui"):
        settled({"json": True, "tui": "on"})


@pytest.mark.parametrize("endpoint", ["", "a", "a:b", "a:0", "a:70000", "http://a:1", "a:1:2", "::1:1"])
def test_a_bad_endpoint_is_refused(endpoint: str) -> None:
    with pytest.raises(UsageError, match="--connect"):
        settled({"connect": (endpoint,)})


@given(st.dictionaries(st.sampled_from(sorted(KEYS)) | st.text(max_size=5), st.text(max_size=8), max_size=4))
def test_any_environment_gives_settings_or_one_usage_error(values: dict[str, str]) -> None:
    environment = {"P2P_" + key.upper(): value for key, value in values.items()}
    try:
        settings = settle(from_flags({"id": "A"}), from_environment(environment), NOTHING, HOME)
    except UsageError as error:
        assert str(error)
    else:
        assert settings.id == "A"


def test_every_key_says_what_it_takes() -> None:
    known = SWITCHES | ON_OFF | set(_NUMBERS) | {"log_level"}
    texts = {"id", "host", "data_dir", "network_key_file", "network", "trust"}
    texts |= {"registry", "registry_token_file", "advertise", "http", "http_unix", "http_tls_cert", "http_tls_key"}
    texts |= {"tls_cert", "tls_key", "tls_ca"}
    assert known | texts == set(KEYS)
    assert not known & texts


def test_a_wrong_value_is_shown_as_it_was_written(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text('id = "A"\nlisten = "x"\n')
    with pytest.raises(UsageError, match=r"node.toml: listen = 'x': it takes a port"):
        from_file(file)
    file.write_text('connect = "10.0.0.2:9001"\n')
    with pytest.raises(UsageError, match="it takes a list of endpoints"):
        from_file(file)
    with pytest.raises(UsageError, match="environment: P2P_OPEN='maybe': it takes true or false"):
        from_environment({"P2P_OPEN": "maybe"})
    file.write_text("frobnication = 1\n")
    with pytest.raises(UsageError, match="unknown key frobnication; there are id, listen, "):
        from_file(file)


@pytest.mark.parametrize("key", ["registry_token_file", "data_dir", "tls_ca"])
def test_a_path_with_a_zero_byte_is_wrong_usage(key: str, tmp_path: Path) -> None:
    (tmp_path / "node.toml").write_text(f'id = "A"\n{key} = "a\\u0000b"\n')
    assert "no path has a zero byte" in p2p_refuses("--config", tmp_path / "node.toml")


def test_a_unix_socket_that_no_client_could_be_told_of_is_refused() -> None:
    with pytest.raises(p2p.ConfigError, match="no UTF-8"):
        Bind(unix=Path("/tmp/\udcff"))
