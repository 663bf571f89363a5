"""Every bound of the system: its value, its unit in the name, and why it is that and not another.

A bound is passed as part of one `Limits` value, never as a loose argument. Tests and simulations make their own with
`dataclasses.replace`. A number that two nodes must agree on belongs to the wire and says so; changing it breaks
interoperation.
"""

# Not `from __future__ import annotations`: a dataclass looks at each that is a text for what it may mean, which for so
# many fields is half of what it takes to make the class, 1.5 % of what is ours in the import of a node.
from dataclasses import fields
from typing import Final

from p2p.values import frozen

KIB: Final = 1024
MIB: Final = 1024 * KIB


@frozen
class Limits:
    """Bounds of one node. Times in seconds, sizes in bytes, rates per second."""

    # Framing and sessions. Wire: sections 2, 5 and 6.
    handshake_frame_bytes_max: int = 4 * KIB
    """A frame before the handshake is done. The largest honest one is under 1 KiB."""
    frame_bytes_max: int = 1 * MIB
    """A frame of a live session; four sealed batches of room, and what one peer can make us buffer."""
    handshake_s_max: float = 5.0
    """From the accepted stream to the proven identity, in total and not per read."""
    first_message_s_max: float = 3.0
    """From the stream's start to its first valid message."""
    unauthenticated_max: int = 64
    """Connections that have not proven anything yet, in total."""
    ping_after_s: float = 15.0
    """A side that follows the other one's pings sends its own along with its answers, or an eighth later."""
    dead_after_s: float = 45.0
    """Three pings unanswered; NAT tables forget idle flows after 30 s and more."""
    frame_s_base: float = 20.0
    frame_bytes_per_s_min: int = 16 * KIB
    """One frame must be whole within frame_s_base + its length / frame_bytes_per_s_min."""
    bundle_messages_max: int = 4096
    bundle_bytes: int = 64 * KIB
    """Small messages that wait are joined until they have this size, and sealed as one."""
    bundle_message_bytes_max: int = 16 * KIB
    """Messages of this size and more travel alone: joining them would only copy them."""
    rekey_every: int = 65_536
    """Sealed envelopes per key and direction (wire: both sides count alike)."""
    capabilities_max: int = 64
    label_bytes_max: int = 64
    goodbye_detail_bytes_max: int = 256
    pongs_pending_max: int = 64
    """Pongs not yet written; a peer that pings and never reads gets no more than these."""

    # Who may knock, and how often (threats T02, T03, T04).
    prefix_unauthenticated_max: int = 8
    """Connections that have not proven anything yet, per /32 (IPv4) or /56 (IPv6)."""
    prefix_burst: int = 16
    prefix_per_s: float = 0.2
    """New connections per prefix; an honest one gets its token back, so this bounds failures only."""
    prefix_table_max: int = 4096
    refusal_lines_per_s: float = 1.0
    refusal_lines_burst: int = 20
    """Lines about connections that ended unproven or were refused (the others are told as a number in the next line),
    and, counted apart, about logs that are left alone."""
    peer_lines_per_s: float = 2.0
    peer_lines_burst: int = 1024
    """Lines about peers that come and go, show a label of somebody else's or are banned: as many identities as anybody
    likes cost him nothing. The others are told as a number, too. Peers that an operator named, and links that this node
    dialled, have as many lines of their own."""
    refused_again_s: float = 600.0
    """How long nothing more is told of an identity that was refused for one reason."""
    refused_told_max: int = 1024
    """Identities and reasons that this is remembered of."""
    listen_backlog: int = 128
    """Connections that the kernel keeps until we accept them."""
    descriptors_reserved: int = 16
    """File descriptors that accepting leaves free: the store, its journal and our own dials go on in a flood."""
    ws_handshake_bytes_max: int = 8 * KIB
    """An HTTP request for a WebSocket, or the answer; proxies add a few hundred bytes. Its time is that of the link."""
    ws_message_bytes_max: int = 128 * KIB
    """One WebSocket message that comes in; we send half of it at most. Four times as much without any is an attack."""
    ws_idle_frames_max: int = 1024
    """Pings, empty frames and fragments between two messages: a frame costs as much to read whatever it brings."""
    ws_close_s_max: float = 1.0
    """Closing a WebSocket waits no longer for the other side's Close."""
    accept_pause_s_max: float = 0.2
    """Out of descriptors or memory: so long, with jitter, until the next accept. Half of it at least."""

    # Whom we leave alone, and for how long (threat T33).
    ban_points: int = 100
    ban_s_min: float = 600.0
    ban_s_max: float = 86_400.0
    """A ban doubles each time, up to a day."""
    score_forgiven_per_s: float = 1 / 60
    """Points fade, one a minute: four broken links an hour apart are bad luck, within a minute they are not."""
    scores_max: int = 4096

    # How often a link may make us work for nothing (threat T24).
    control_per_s: int = 200
    control_burst: int = 400
    """Ping, WalHeads, OutboxPull, ForkProof, Attached and the opening of circuits together (wire). An honest link has a
    few dozen a second."""
    control_entries: int = 256
    """A WalHeads or an Attached counts once more for each so many entries: a full frame of them takes tens of
    milliseconds."""
    control_rest_s: float = 1.0
    """A link that sends more is not read for so long; from the second time on it costs points."""

    # What waits to be sent to one peer.
    outbox_control_messages_max: int = 16_384
    """Answers that wait. A peer that keeps to its window has fewer pushes unanswered than fit `unacked_bytes_max`."""
    outbox_control_bytes_max: int = 8 * MIB
    outbox_messages_max: int = 4096
    outbox_bytes_max: int = 512 * KIB
    outbox_high_water_bytes: int = 256 * KIB
    """`send` waits from here."""
    write_bytes: int = 64 * KIB
    """What one write takes from the outbox."""
    write_stall_s_max: float = 30.0
    """No byte accepted by the other side for so long ends the link."""
    drain_s_max: float = 5.0
    """The losing one of two links: flush, answer what is pending, say Goodbye."""
    retire_s_max: float = 60.0
    """So long it stays if each `drain_s_max` something moves on it, or its peer shows that it lives while requests are
    still being served. Longer than `channel_wait_s_max`, so that a reader that has gone away is found out."""
    read_bytes: int = 128 * KIB
    """What one read asks for: two writes of the other side. More would keep the other tasks waiting."""

    # Peers.
    max_peers: int = 64
    dial_s_max: float = 10.0
    """Name resolution and TCP connect."""
    dial_stagger_s: float = 0.25
    """Between two addresses of one name that are tried side by side (RFC 8305, section 5)."""
    dial_addresses_max: int = 16
    """Addresses of one name that are tried: a hostile name server may list any number."""
    probe_s_max: float = 2.0
    """An older link to the same peer must answer a ping within this, or the newer one replaces it."""
    retiring_links_per_peer_max: int = 8
    """Links of one peer that gave way to another and are being flushed; beyond, the oldest is cut."""
    weak_pins_max: int = 4096
    backoff_manual_s: tuple[float, ...] = (2.5, 5.0, 10.0, 12.0)
    """Waits after the first failures of dials that somebody asked for; the last one doubles from there on."""
    backoff_automatic_s: tuple[float, ...] = (2.0, 4.0, 8.0, 15.0)
    """The same for dials that the node makes by itself."""
    backoff_s_max: float = 300.0
    dedupe_s: float = 0.9
    """An automatic dial so soon after another attempt at the same place is the same dial."""
    flapping_s: float = 5.0
    """A link that lasted less counts as a failed attempt."""
    backoff_table_max: int = 4096
    events_queue_max: int = 1024
    channel_bytes_max: int = 16 * MIB
    """Bodies that wait for a channel's reader, whatever its capacity in messages; one of any size fits an empty one."""
    channel_wait_s_max: float = 10.0
    """A full channel with when_full="wait" pauses the link for no longer."""
    channel_overdue_messages_max: int = 16_384
    """What a channel whose reader takes something, if slowly, holds beyond its capacity of links that may not rest for
    it, as others' circuits run over them, or they end."""
    channels_max: int = 1024
    channel_name_bytes_max: int = 256
    pending_requests_max: int = 64
    """Requests to one peer that wait for their answers; another one waits for its turn. As many of a peer's are served
    by one service or wait for it, and one more is answered with status 3."""
    pending_requests_bytes_max: int = 4 * MIB
    """Bodies of one peer's requests that are served by one service or wait for it."""
    requests_waiting_max: int = 1024
    """Requests of all peers that wait for one service."""
    abandoned_requests_max: int = 1024
    """Requests of one link that timed out or were cancelled, whose answers may still come."""
    clone_alternations_per_minute_max: int = 3
    """Double links of one identity from two places: a copied key."""

    # The log. Wire: section 8.
    batch_records_max: int = 1024
    batch_bytes_max: int = 256 * KIB
    """One sealed batch with everything (wire)."""
    hlc_future_s_max: float = 60.0
    """A timestamp further ahead does not move our clock."""
    window_records_start: int = 4096
    window_records_max: int = 65_536
    unacked_bytes_max: int = 1 * MIB
    """Pushed and not acknowledged, per link (wire)."""
    load_ahead_bytes: int = 1 * MIB
    """Read from the store for one peer before the window lets it go: as much again as may be under way."""
    recent_batches_bytes: int = 4 * MIB
    """Batches kept for all links that pass them on, so that one commit is read once and not once per peer."""
    boundaries_per_origin: int = 16
    """Batch ends remembered per origin, to compare heads without the store; peers' heads lag by a second at most."""
    heads_per_message_max: int = 4096
    heads_debounce_s: float = 0.05
    heads_debounce_quiet_s: float = 1.0
    supplier_stall_s: float = 3.0
    """No progress from the chosen supplier while another shows more: the other is chosen."""
    supplier_doubt_s_max: float = 300.0
    """The longest pause before a link that claimed and did not deliver is tried again; it begins at two stalls."""
    proof_interval_s: float = 0.05
    """Between two fork proofs on one link: they are large, and no window counts them."""
    proofs_pending_max: int = 4
    """Fork proofs of one link that are being checked; more are dropped and asked for again."""
    confirmed_peers_max: int = 4096
    """Peers of which we remember how far they hold our log."""
    origins_max: int = 1024
    introduced_origins_per_peer_max: int = 512
    origin_bytes_max: int = 4 * 1024 * MIB
    """Quota for one origin that no trust list names."""
    targets_per_origin_max: int = 1024
    """The index of whom an origin's records are for names fewer; with more, they may be for anybody. So it never takes
    more than some 100 KB of what an origin may have."""
    appends_waiting_max: int = 65_536
    """Records that wait for the next commit; `append` waits beyond."""
    commit_bytes_max: int = 4 * MIB
    """What one commit takes of pushes, and as much of appends: more would gain nothing and keep the first waiting."""
    store_pass_bytes: int = 4 * MIB
    """SQLite's log is copied into its file, beside the commits, whenever so much was added to it."""
    store_log_bytes_max: int = 24 * MIB
    """When the log is so long, what is left is copied before the next commit, and then it begins anew. It grows beyond
    that by one commit, and while somebody reads from an old place."""
    segment_batch_bytes_min: int = 64 * KIB
    """A batch of so many bytes is kept in a segment, a file beside the store's; a smaller one is a row there, unless a
    commit brings so much of its log, and nothing else."""
    segment_bytes_max: int = 64 * MIB
    """A segment takes no more."""
    segment_tail_bytes_max: int = 16 * MIB
    """So much of segments may their index not have on the disk: it is read again by the next start, after a power
    cut."""
    append_delay_on_claim_s_max: float = 3.0
    """A peer that claims to know more of our own log than we do may delay appends once per start. So long they also
    wait after the last piece of our own log that was fetched back."""
    own_claim_records_max: int = 2**32
    """So much of our own log, beyond a piece that was fetched back, may a peer show and be believed."""
    own_claim_stall_s: float = 40.0
    """Who is believed, is asked, stays connected and delivers nothing for so long more than `supplier_stall_s` is
    believed no longer. The largest batch on the slowest link that lives takes 36 s."""
    own_claim_s_max: float = 3600.0
    """Nobody is believed for longer, if nothing of our own log came meanwhile: once per start, should it have to be."""
    append_delay_at_start_s_max: float = 3.0
    """A node with configured peers waits so long for a first word of each of them before it signs anything; one that
    only looks for peers, for a word of somebody who holds its log. Neighbours announce themselves every 2 s."""
    follow_read_bytes: int = 1 * MIB
    store_retry_s: float = 1.0
    """A store that failed to write is tried again this often."""
    scrub_after_s: float = 5.0
    """The first check of all that is stored begins so long after the start, which has better things to read."""
    scrub_every_s: float = 7 * 86_400.0
    """From the end of one check to the next."""
    scrub_bytes: int = 256 * KIB
    """What it reads at once."""
    scrub_rest_s: float = 0.25
    scrub_file_bytes_max: int = 256 * MIB
    """The structure of a larger file is not checked while the node runs: that is done at one go."""
    """How long it then rests: 1 MiB a second at the most, 4 GiB in 70 minutes."""
    proof_bytes_max: int = 512 * KIB
    """A ForkProof: two batches."""
    refetch_per_minute_max: int = 60
    """Times per minute that one link may have the same origin's log sent again from a lower head."""

    # Circuits through relays, and the routes to them. Wire: section 7; threat T72.
    relay_window_bytes: int = 1 * MIB
    """Per circuit and direction: sent and not yet taken by the far end (wire). A relay never keeps more of one."""
    relay_slice_bytes_max: int = 256 * KIB
    """One Relay message's share of the stream (wire)."""
    relay_slice_bytes_min: int = 16 * KIB
    """Where many circuits wait for their turn each has its share of that, and this at the least."""
    relay_write_bytes: int = 192 * KIB
    """What one write into a circuit takes from the outbox: with a last message of 64 KiB it still is one slice. A slice
    costs each of the three nodes about as much as what 64 KiB of its bytes do."""
    relay_circuits_max: int = 128
    """Circuits that a relay carries in all. Two windows of each are the most that it ever keeps: 256 MiB."""
    relay_circuits_per_peer_max: int = 32
    """Circuits on one link, whoever opened them: one neighbour cannot use up the relay, or an end."""
    relay_circuits_per_pair_max: int = 4
    """Circuits between the same two neighbours of a relay. They need one, and two while one takes over from another: so
    nobody can use up what his target is allowed."""
    relay_circuits_per_asker_max: int = 16
    """Circuits that one neighbour of a relay has over one other, for and to whomever, unless both relay: half of what
    that link carries."""
    relay_bytes_per_s: float = 4096 * MIB
    """What a relay lets through per circuit and direction in the long run. An operator may say less."""
    relay_circuit_bytes_max: int = 64 * 1024 * MIB
    """What a relay lets through one circuit in all. It ends there, with what is under way; the two may open another."""
    relay_idle_s_max: float = 120.0
    """A relay closes a circuit on which nothing moved: a session inside pings every `ping_after_s`."""
    relay_openings_per_s: float = 2.0
    relay_openings_burst: int = 32
    """Circuits that a relay opens in vain for one asker, or to one target for another relay: those in which the asker
    proved himself there are not counted. One that is asked for and given up costs the target as much as one that
    stands."""
    relay_openings_named_per_s: float = 0.1
    relay_openings_named_burst: int = 8
    """The same of one source to one target, as another relay names it: half of what the target grants that source over
    this one (`prefix_…`), so that one relay that names others uses up nobody."""
    relay_openings_of_relay_per_s: float = 16.0
    relay_openings_of_relay_burst: int = 256
    """The same for another relay that asks, whomever it names: it stands for all who are behind it."""
    relay_openings_askers_max: int = 256
    """Askers, and targets, behind one neighbour that are told apart."""
    relay_incoming_per_s: float = 10.0
    relay_incoming_burst: int = 64
    """Circuits that one relay may bring to this node and that prove nothing: each costs a handshake, whoever is said to
    ask for it. `prefix_…` bounds those of one source, as that relay names it."""
    relay_wait_s_max: float = 3.0
    """A dial waits so long for its relay to be connected: at a start both are dialled at once."""
    relay_next_s: float = 4.0
    """A way that is looked for over one relay is looked for over the next after so long; the last has `dial_s_max`."""
    searches_unasked_max: int = 16
    """From so many searches on, one that nobody waits for any more is given up."""
    relay_redial_s_max: float = 15.0
    """The longest wait before a configured peer is looked for again behind a relay."""
    direct_look_s: float = 2.0
    """So often a node beside a relay looks for a direct link on which something was sent and nothing came: it pings
    there."""
    direct_doubt_s: float = 6.0
    """A direct link that is silent for so long after that is doubted: its peer is dialled over a relay, and the one of
    the two links is kept that answers (`probe_s_max`). A link as slow as `frame_bytes_per_s_min` makes room for the
    next `write_bytes` within 4 s."""
    relay_ask_after_s: float = 1.0
    """Something was sent into a circuit, and nothing was heard there for so long: its other end is pinged."""
    relay_answer_s_max: float = 3.0
    """A circuit that brings nothing for so long after that is dead, be it a frozen relay or a link behind it: another
    relay may lead there. What was sent before the Ping adds to it, one slice at the most."""
    relay_pace_bytes_per_s: int = 32 * KIB
    """The pace that is reckoned with there."""
    relay_patience_max: int = 16
    relay_patience_kept_s: float = 600.0
    """The next circuit to the same peer over the same relay gets twice that, up to so many times, while it is
    remembered: what is slow is not dead, and takes a few circuits to be told from it. So does the time until a circuit
    is opened anew that a relay asks to move again, or that breaks again: from `flapping_s` on and up to half of
    `retire_s_max`."""
    relay_carry_s_max: float = 10.0
    """What waited on a circuit that broke is kept for the next link with the same peer for so long."""
    relay_open_s_max: float = 10.0
    """The target must have taken a circuit by then."""
    routes_max: int = 4096
    routes_told_max: int = 1024
    """Peers that one relay may tell of (wire)."""
    routes_told_every_s: float = 30.0
    routes_told_debounce_s: float = 1.0
    """What a relay tells is told again this often, and when it changed not before so long after the last time."""
    routes_expire_s: float = 90.0
    """A route that was not told again for so long is forgotten: three times of telling."""

    # Stopping.
    shutdown_s_max: float = 5.0
    hung_disk_s_max: float = 2.5
    """Work on the disk that has begun is waited for so long while a node stops: half of its time, as it may come on top
    of the Goodbyes."""

    # Places that hints name: discovery, registries, the book (threats T44, T46, T47).
    leads_per_standing_max: int = 160
    """That wait, of strangers with the same behind their hints: signed or not, heard again or not, listed."""
    leads_known_max: int = 256
    """That wait, of peers that are known."""
    leads_per_source_max: int = 8
    """Of one address on the network, not counting places where somebody proved himself; half of them unsigned. And as
    many of peers that are known."""
    leads_per_registry_max: int = 128
    """Likewise."""
    lead_interval_s: float = 30.0
    """Between two dials to one place, whoever names it."""
    lead_ttl_s: float = 15.0
    """What was not named again for so long is not dialled any more."""
    lead_dials_per_s: float = 8.0
    lead_dials_burst: int = 64
    """A node that starts among as many others meets all of them at once."""
    lead_dials_max: int = 8
    """Dials of leads of one standing under way at a time."""
    lead_bare_dials_per_s: float = 2.0
    """Of these, to places that one unsigned datagram named: anybody makes up any number."""
    lead_bare_dials_burst: int = 16
    lead_bare_dials_max: int = 2
    """Of these, under way at a time."""
    lead_yield_s: float = 3.0
    """Of two nodes that hear of each other one lets the other dial: up to half as long again. It takes an announcement
    interval until the other hears of us, and then a dial; while somebody from there shakes hands, `handshake_s_max`
    more."""
    lead_yield_again_s: float = 0.5
    """Between two looks whether that handshake came to its end."""

    # The address book, and bans over a restart.
    book_after_s: float = 5.0
    """Between two looks into the book: what else connects peers has as long before the first one."""
    bans_kept_max: int = 1024
    peers_away_max: int = 1024
    """Peers without a link that are told of at once."""
    book_places_max: int = 1024
    book_places_per_peer_max: int = 4
    book_failures_max: int = 256
    """Dials in a row; at the longest pause between them that is most of a day."""
    book_again_s: float = 60.0
    """A place where the same peer is met again sooner is not written down again."""

    # Discovery datagrams (wire: section 9; threats T44 to T47).
    announce_sent_bytes_max: int = 512
    announce_read_bytes_max: int = 1200
    announce_reads_per_s: int = 1000
    """Datagrams taken off the socket, whatever they are: about 4 % of a processor. The kernel drops what is more."""
    announce_reads_burst: int = 250
    announce_checks_per_s: int = 150
    """Signed announcements verified, from sources that were heard lately, at 0.2 ms each; and as many unsigned ones."""
    announce_checks_burst: int = 300
    announce_signed_checks_per_s: int = 100
    """From others, that look signed: a flood from ever new addresses takes nothing from who is there already."""
    announce_signed_checks_burst: int = 200
    announce_bare_checks_per_s: int = 100
    """From others, without a signature: a flood of these takes nothing from who signs."""
    announce_bare_checks_burst: int = 200
    discovery_retry_s: float = 5.0
    """Between two attempts of a node to open the port, where another program keeps it."""
    announce_again_s: float = 1.0
    """A place that is heard for longer than this announces itself again; a false one has to be kept up."""
    announce_source_per_s: int = 20
    """From one source: a host of forty nodes, at one in two seconds each. Signed ones and others are counted apart."""
    announce_source_burst: int = 40
    announce_sources_max: int = 1024
    """Sources whose pace is remembered, once for what they sign and once for what they do not."""
    discovered_max: int = 4096
    """Announced places, of all sources together. A quarter of them is what those heard once and signed, heard again and
    unsigned, and so on, have at least: at the pace of `announce_…` it lasts longer than it takes to speak again."""
    discovered_per_source_max: int = 40
    """As many nodes on one host as its pace lets speak; dials are bounded by `leads_per_source_max`."""
    discovered_per_peer_max: int = 8
    """Places that one identity is announced at: a host has a few interfaces, a replay any number."""

    # Registries, as their client (wire: section 10; threats T48, T49).
    registry_answer_bytes_max: int = 256 * KIB
    registry_peers_max: int = 100
    """Peers that one answer may name; a registry of ours lists no more."""
    registry_s_max: float = 10.0
    """For one question, from the name look-up to the last byte; and again for the names that the answer holds."""
    registry_backoff_s_max: float = 120.0
    """The longest pause before a registry that failed is asked again."""
    registry_outages_burst: int = 4
    registry_outages_per_s: float = 1 / 600
    """Lines about failures of a registry that comes and goes: so many at once, then one in ten minutes."""
    registry_names_per_address_max: int = 16
    """Names that WebSocket peers are listed under at one address and port, as nodes behind one proxy are."""
    registry_known_max: int = 1024
    """Peers that `snapshot` remembers."""

    # Registries, as their server (wire: section 10).
    registrar_ttl_s: float = 60.0
    """An entry that is not announced again is forgotten after so long."""
    registrar_entries_max: int = 100_000
    """With all of them taken, new ones are refused: those that are there announce themselves again and stay."""
    registrar_entries_per_source_max: int = 64
    registrar_announces_per_s: float = 8.0
    registrar_announces_burst: int = 128
    """Per source. As many nodes as may be behind one address announce themselves every few seconds."""
    registrar_questions_per_s: float = 16.0
    registrar_questions_burst: int = 128
    registrar_sources_max: int = 65_536

    def __repr__(self) -> str:
        given = ((field.name, getattr(self, field.name), field.default) for field in fields(self))
        return f"Limits({', '.join(f'{name}={bound!r}' for name, bound, usual in given if bound != usual)})"


USUAL: Final = Limits()
"""The bounds unless others are given. Others read a number of it that is fixed, such as what is on the wire."""
