//! The file format: its keys, their defaults, and what must hold among them.

use std::{collections::HashMap, fs::Metadata, hash::Hash, path::Path, str::FromStr};

use ipnet::IpNet;
use multipath_common::{
    classes::{FlowClass, MAX_CLASS_RULES, MAX_COUNTED_RULES},
    health::Role,
    inner::{TCP, UDP},
    maps::MAX_PEERS,
};
use toml::de::DeTable;

use super::{
    Cipher, Class, Config, DEFAULT_PORT, Diagnostic, Endpoint, FLOWS_MAX, KeyError, MAX_PATHS, MTU_MAX, MTU_MIN, Peer,
    PresharedKey, PublicKey, Routes, SecretKey, Spread, Tunnel, Uplink, WEIGHT_MAX, WEIGHT_MIN, Xdp, assigned,
    check_interface_name, check_name, check_tunnel_name, class, delay,
    diagnostic::Report,
    prefix,
    reader::{Section, Value},
    secret_file, span,
};

const A_KEY: &str = "32 bytes in base64, as `mpvpn genkey` and `mpvpn pubkey` print them";
const A_SECRET: &str = "private_key_file = \"FILE\" or private_key = \"BASE64\" (`mpvpn genkey` makes one)";
const A_PRESHARED: &str = "32 bytes in base64, as `mpvpn genpsk` prints them";
const AN_ENDPOINT: &str = "\"ADDRESS:PORT\" or { address = \"ADDRESS:PORT\", uplinks = [\"NAME\"] }";

/// What the sections are read with.
struct File<'a> {
    path: &'a Path,
    /// Whose the file is and who can read it, if it was read from one.
    metadata: Option<&'a Metadata>,
}

/// Checks the file's `text`.
pub(super) fn decode(text: &str, path: &Path, metadata: Option<&Metadata>) -> Result<Config, Vec<Diagnostic>> {
    let mut report = Report::new(path, text);
    let (document, mut errors) = DeTable::parse_recoverable(text);
    errors.sort_by_key(|error| error.span().unwrap_or_default().start);
    let mut last_line = 0;
    for error in errors {
        let span = error.span().unwrap_or_default();
        // The parser's further errors in the same line come from its first.
        if report.line(&span) != last_line {
            last_line = report.line(&span);
            // Without the text that stands there, which may be a private key.
            report.add(&span, None, "a syntax error", format!("TOML: {}", error.message().replace('\n', ", ")));
        }
    }
    // What the parser could not read is missing from the document: further errors would mislead.
    if !report.is_empty() {
        return Err(report.finish());
    }

    let file = File { path, metadata };
    let mut root = Section::root(&document);
    let tunnel = root.required("tunnel", "a table [tunnel]", &mut report);
    let tunnel = tunnel.and_then(|value| value.table("a table [tunnel]", &mut report));
    let name = tunnel_name(path, &mut report);
    let tunnel = tunnel.and_then(|section| decode_tunnel(section, name.clone(), &file, &mut report));

    let sections = required_tables(&mut root, "uplink", &mut report);
    let mut names = Unique::default();
    let mut interfaces = Unique::default();
    // Also the uplinks with other errors: their names are known to endpoints all the same.
    let mut known_uplinks = Vec::new();
    let mut uplinks = Vec::new();
    for mut section in sections {
        let name = decode_name(&mut section, &mut names, &mut report);
        let flows = decode_flows(&mut section, tunnel.as_ref(), &mut report);
        known_uplinks.extend(name.clone().map(|name| KnownUplink { name, flows: flows.unwrap_or(1) }));
        let uplink = decode_uplink(&mut section, name, flows, tunnel.as_ref(), &mut interfaces, &mut report);
        section.finish(&mut report);
        uplinks.extend(uplink);
    }

    let mut seen = Seen {
        uplinks: &known_uplinks,
        names: Unique::default(),
        keys: Unique::default(),
        prefixes: Unique::default(),
    };
    let own = tunnel.as_ref().map(|tunnel| tunnel.private_key.public());
    let mut peers = Vec::new();
    let sections = required_tables(&mut root, "peer", &mut report);
    if let Some(first) = sections.get(MAX_PEERS) {
        let expected = format!("at most {MAX_PEERS} peers of one tunnel");
        report.add(first.span(), Some("peer"), format!("{} peers", sections.len()), expected);
    }
    for mut section in sections {
        let peer = decode_peer(&mut section, own, path, &mut seen, &mut report);
        section.finish(&mut report);
        peers.extend(peer);
    }
    let classes = decode_classes(&mut root, &mut report);
    root.finish(&mut report);

    match tunnel {
        Some(tunnel) if report.is_empty() => Ok(Config { file: path.to_owned(), tunnel, uplinks, peers, classes }),
        _ => Err(report.finish()),
    }
}

/// What must be unique over all peers, and what they may refer to.
struct Seen<'a> {
    uplinks: &'a [KnownUplink],
    names: Unique<String>,
    keys: Unique<PublicKey>,
    prefixes: Unique<IpNet>,
}

/// What peers need to know of an uplink.
struct KnownUplink {
    name: String,
    flows: u32,
}

/// Values that may stand only once, each with the line where it stands.
struct Unique<T>(HashMap<T, usize>);

impl<T> Default for Unique<T> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<T: Eq + Hash> Unique<T> {
    /// Takes the value, or reports where it already stands.
    fn add(&mut self, item: T, value: &Value, what: &str, report: &mut Report) -> Option<()> {
        let line = report.line(&value.span);
        if let Some(first) = self.0.get(&item) {
            return value.wrong(&format!("{what} of its own: this one stands in line {first} already"), report);
        }
        self.0.insert(item, line);
        Some(())
    }
}

fn tunnel_name(path: &Path, report: &mut Report) -> Option<String> {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let stem = name.strip_suffix(".toml").unwrap_or(name);
    match check_tunnel_name(stem) {
        Ok(()) => Some(stem.to_owned()),
        Err(expected) => {
            report.add_file_name(format!("{stem:?}"), format!("{expected}, and .toml"));
            None
        }
    }
}

/// The tables `[[key]]`, at least one.
fn required_tables<'a>(root: &mut Section<'a>, key: &'static str, report: &mut Report) -> Vec<Section<'a>> {
    let expected = format!("at least one table [[{key}]]");
    let Some(value) = root.required(key, &expected, report) else { return Vec::new() };
    let tables = tables(&value, key, report);
    if value.is_empty_list() {
        value.wrong::<()>(&expected, report);
    }
    tables
}

/// The tables `[[key]]`.
fn tables<'a>(value: &Value<'a>, key: &str, report: &mut Report) -> Vec<Section<'a>> {
    let elements = value.list(&format!("a list of tables, each headed [[{key}]] in double brackets"), report);
    elements.iter().filter_map(|element| element.table(&format!("a table [[{key}]]"), report)).collect()
}

fn decode_tunnel(mut section: Section, name: Option<String>, file: &File, report: &mut Report) -> Option<Tunnel> {
    let private_key = decode_secret(&mut section, file, report);
    let listen_port = match section.optional("listen_port") {
        Some(value) => value.number(&(1..=u32::from(u16::MAX)), report).map(|port| port as u16),
        None => Some(DEFAULT_PORT),
    };
    let mut addresses = Vec::new();
    let mut unique = Unique::default();
    for value in list(&mut section, "address", "a list of addresses: [\"10.99.0.1/24\"]", report) {
        let address = value.parse("an address in quotes", prefix::address, report);
        if let Some(address) = address
            && unique.add(address.addr(), &value, "an address", report).is_some()
        {
            addresses.push(address);
        }
    }
    let mtu = section.optional("mtu").and_then(|value| value.number(&(MTU_MIN..=MTU_MAX), report));
    let routes = match section.optional("routes") {
        Some(value) => value.choice(&[("auto", Routes::Auto), ("off", Routes::Off)], report),
        None => Some(Routes::default()),
    };
    let spread = match section.optional("spread") {
        Some(value) => value.choice(&[("auto", Spread::Auto), ("off", Spread::Off)], report),
        None => Some(Spread::default()),
    };
    let playout_delay = section
        .optional("playout_delay")
        .and_then(|value| value.parse("a delay in quotes, for instance \"120ms\"", delay::playout_delay, report));
    section.finish(report);
    Some(Tunnel {
        name: name?,
        private_key: private_key?,
        listen_port: listen_port?,
        addresses,
        mtu,
        routes: routes?,
        spread: spread?,
        playout_delay,
    })
}

fn decode_secret(section: &mut Section, file: &File, report: &mut Report) -> Option<SecretKey> {
    match (section.optional("private_key"), section.optional("private_key_file")) {
        (None, None) => {
            section.missing("private_key_file", A_SECRET, report);
            None
        }
        (Some(_), Some(file)) => file.wrong("either this or private_key, not both", report),
        (Some(value), None) => {
            let found = match value.as_text().map(str::parse) {
                Some(Ok(key)) => match file.metadata.map_or(Ok(()), |metadata| secret_file::check(file.path, metadata))
                {
                    Ok(()) => return Some(key),
                    Err(error) => {
                        let expected = format!("it in a file that is its owner's alone; {error}");
                        report.add(&value.span, Some(&value.key), "a key", expected);
                        return None;
                    }
                },
                Some(Err(error)) => KeyError::to_string(&error),
                None => "no text".to_owned(),
            };
            // Without the text itself, which may be the key with one letter too many.
            report.add(&value.span, Some(&value.key), found, A_KEY);
            None
        }
        (None, Some(value)) => {
            if value.as_text().is_some_and(resembles_key) {
                report.add(&value.span, Some(&value.key), "a key", "the name of a file (private_key takes a key)");
                return None;
            }
            decode_key_file(&value, "private key", A_KEY, file.path, report)
        }
    }
}

fn decode_preshared(section: &mut Section, path: &Path, report: &mut Report) -> Option<PresharedKey> {
    let value = section.optional("preshared_key_file")?;
    if value.as_text().is_some_and(resembles_key) {
        report.add(&value.span, Some(&value.key), "a key", "the name of a file with it");
        return None;
    }
    decode_key_file(&value, "preshared key", A_PRESHARED, path, report)
}

/// Whether a text that should name a file is rather a key, perhaps with a letter too many or too few: then it must not
/// be printed.
fn resembles_key(text: &str) -> bool {
    let is_base64 = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=');
    (42..=46).contains(&text.len()) && text.bytes().all(is_base64) && !Path::new(text).exists()
}

/// Reads the key in the file that a value names, beside the configuration's `path`.
fn decode_key_file<K: FromStr<Err = KeyError>>(
    value: &Value,
    what: &str,
    expected: &str,
    path: &Path,
    report: &mut Report,
) -> Option<K> {
    let file = value.text("the name of a file in quotes", report)?;
    let file = path.parent().unwrap_or(Path::new("")).join(file);
    let key = match secret_file::read(&file) {
        Ok(key) => key,
        Err(error) => return value.wrong(&format!("a file with a {what}: {error}"), report),
    };
    match key.trim_ascii().parse() {
        Ok(key) => Some(key),
        Err(error) => value.wrong(&format!("a file with {expected}; this one has {error}"), report),
    }
}

fn decode_name(section: &mut Section, names: &mut Unique<String>, report: &mut Report) -> Option<String> {
    let value = section.required("name", "a name in quotes", report)?;
    let name = value.parse("a name in quotes", |name| check_name(name).map(|()| name.to_owned()), report)?;
    names.add(name.clone(), &value, "a name", report)?;
    Some(name)
}

/// How many flows an uplink has: their source ports are the tunnel's and those behind it.
fn decode_flows(section: &mut Section, tunnel: Option<&Tunnel>, report: &mut Report) -> Option<u32> {
    let Some(value) = section.optional("flows") else { return Some(1) };
    let flows = value.number(&(1..=FLOWS_MAX), report)?;
    if let Some(Tunnel { listen_port, .. }) = tunnel {
        let ports = u32::from(u16::MAX - listen_port) + 1;
        if flows > ports {
            let expected = format!("at most {ports}: each has a port of its own, from listen_port {listen_port} on");
            return value.wrong(&expected, report);
        }
    }
    Some(flows)
}

fn decode_uplink(
    section: &mut Section,
    name: Option<String>,
    flows: Option<u32>,
    tunnel: Option<&Tunnel>,
    interfaces: &mut Unique<String>,
    report: &mut Report,
) -> Option<Uplink> {
    let interface = decode_interface(section, tunnel, interfaces, report);
    let weight = section.optional("weight").and_then(|value| value.number(&(WEIGHT_MIN..=WEIGHT_MAX), report));
    let rate = section
        .optional("rate")
        .and_then(|value| value.parse(&super::RateError.to_string(), str::parse::<super::Rate>, report));
    let choices = [("auto", Xdp::Auto), ("native", Xdp::Native), ("generic", Xdp::Generic), ("off", Xdp::Off)];
    let xdp = match section.optional("xdp") {
        Some(value) => value.choice(&choices, report),
        None => Some(Xdp::default()),
    };
    let role = match section.optional("role") {
        Some(value) => {
            value.choice(&[Role::Active, Role::Backup, Role::Metered].map(|role| (role.name(), role)), report)
        }
        None => Some(Role::Active),
    };
    let quota = section
        .optional("quota")
        .and_then(|value| value.parse(&super::QuotaError.to_string(), str::parse::<super::Quota>, report));
    Some(Uplink { name: name?, interface: interface?, weight, rate, xdp: xdp?, role: role?, quota, flows: flows? })
}

fn decode_interface(
    section: &mut Section,
    tunnel: Option<&Tunnel>,
    interfaces: &mut Unique<String>,
    report: &mut Report,
) -> Option<String> {
    let expected = "an interface's name in quotes";
    let value = section.required("interface", expected, report)?;
    let interface = value.parse(expected, |name| check_interface_name(name).map(|()| name.to_owned()), report)?;
    let own = |tunnel: &Tunnel| interface == tunnel.name || interface.strip_suffix("-port") == Some(&tunnel.name);
    if tunnel.is_some_and(own) {
        return value.wrong("an interface below the tunnel, not the tunnel's own", report);
    }
    interfaces.add(interface.clone(), &value, "an interface", report)?;
    Some(interface)
}

fn decode_peer(
    section: &mut Section,
    own: Option<PublicKey>,
    path: &Path,
    seen: &mut Seen,
    report: &mut Report,
) -> Option<Peer> {
    let name = decode_name(section, &mut seen.names, report);
    let public_key = decode_public(section, own, &mut seen.keys, report);
    let endpoints = decode_endpoints(section, seen.uplinks, report);
    let allowed_ips = decode_prefixes(section, &mut seen.prefixes, report);
    let cipher = match section.optional("cipher") {
        Some(value) => value.choice(&Cipher::ALL.map(|cipher| (cipher.name(), cipher)), report),
        None => Some(Cipher::default()),
    };
    let preshared_key = decode_preshared(section, path, report);
    Some(Peer {
        name: name?,
        public_key: public_key?,
        endpoints,
        allowed_ips: allowed_ips?,
        cipher: cipher?,
        preshared_key,
    })
}

fn decode_public(
    section: &mut Section,
    own: Option<PublicKey>,
    keys: &mut Unique<PublicKey>,
    report: &mut Report,
) -> Option<PublicKey> {
    let value = section.required("public_key", A_KEY, report)?;
    let read = |text: &str| text.parse::<PublicKey>().map_err(|error| format!("{A_KEY} (this is {error})"));
    let key = value.parse(A_KEY, read, report)?;
    if own == Some(key) {
        return value.wrong("the peer's public key, not this gateway's own", report);
    }
    keys.add(key, &value, "a key", report)?;
    Some(key)
}

fn decode_endpoints(section: &mut Section, uplinks: &[KnownUplink], report: &mut Report) -> Vec<Endpoint> {
    let mut endpoints = Vec::new();
    let mut unique = Unique::default();
    let mut paths = 0;
    let values = section.optional("endpoints");
    let elements = values.as_ref().map(|value| value.list(&format!("a list of {AN_ENDPOINT}"), report));
    for element in elements.unwrap_or_default() {
        let Some(endpoint) = decode_endpoint(&element, uplinks, &mut unique, report) else { continue };
        let used = uplinks.iter().filter(|uplink| endpoint.may_use(&uplink.name));
        paths += used.map(|uplink| uplink.flows as usize).sum::<usize>();
        endpoints.push(endpoint);
    }
    if endpoints.is_empty() {
        paths = uplinks.len();
    }
    if paths > MAX_PATHS {
        let expected = format!(
            "at most {MAX_PATHS} paths to one peer; its endpoints, the uplinks that each may use and their flows make \
             {paths}: name fewer uplinks, {AN_ENDPOINT}"
        );
        match values {
            Some(value) => report.add(&value.span, Some(&value.key), format!("{paths} paths"), expected),
            None => report.add(section.span(), Some("peer.endpoints"), format!("{paths} paths"), expected),
        }
    }
    endpoints
}

fn decode_endpoint(
    value: &Value,
    known: &[KnownUplink],
    unique: &mut Unique<std::net::SocketAddr>,
    report: &mut Report,
) -> Option<Endpoint> {
    if !value.is_table() {
        let address = value.parse(AN_ENDPOINT, prefix::endpoint, report)?;
        unique.add(address, value, "an endpoint", report)?;
        return Some(Endpoint { address, uplinks: None });
    }
    let mut section = value.table(AN_ENDPOINT, report)?;
    let address = section.required("address", AN_ENDPOINT, report).and_then(|value| {
        let address = value.parse(AN_ENDPOINT, prefix::endpoint, report)?;
        unique.add(address, &value, "an endpoint", report)?;
        Some(address)
    });
    let uplinks = section.optional("uplinks").map(|value| decode_uplink_names(&value, known, report));
    section.finish(report);
    Some(Endpoint { address: address?, uplinks })
}

fn decode_uplink_names(value: &Value, known: &[KnownUplink], report: &mut Report) -> Vec<String> {
    let mut names = Vec::new();
    let mut unique = Unique::default();
    let expected = "a list of uplinks' names, at least one";
    let elements = value.list(expected, report);
    if value.is_empty_list() {
        value.wrong::<()>(expected, report);
    }
    for element in elements {
        let Some(name) = element.text("an uplink's name in quotes", report) else { continue };
        if !known.iter().any(|uplink| uplink.name == name) {
            let names: Vec<&str> = known.iter().map(|uplink| uplink.name.as_str()).collect();
            element.wrong::<()>(&format!("the name of one of the uplinks ({})", names.join(", ")), report);
        } else if unique.add(name, &element, "an uplink", report).is_some() {
            names.push(name.to_owned());
        }
    }
    names
}

fn decode_prefixes(section: &mut Section, seen: &mut Unique<IpNet>, report: &mut Report) -> Option<Vec<IpNet>> {
    let expected = "a list of inner prefixes, at least one: [\"10.98.0.0/24\"]";
    let value = section.required("allowed_ips", expected, report)?;
    let elements = value.list(expected, report);
    if value.is_empty_list() {
        return value.wrong(expected, report);
    }
    let mut prefixes = Vec::new();
    for element in elements {
        let Some(net) = element.parse("a prefix in quotes", prefix::prefix, report) else { continue };
        if seen.add(net, &element, "a prefix", report).is_some() {
            prefixes.push(net);
        }
    }
    Some(prefixes)
}

fn decode_classes(root: &mut Section, report: &mut Report) -> Vec<Class> {
    /// Number 0 counts what no rule has caught.
    const RULES_MAX: usize = MAX_COUNTED_RULES - 1;
    let Some(value) = root.optional("class") else { return Vec::new() };
    let mut names = Unique::default();
    let mut classes = Vec::new();
    let mut entries = 0;
    let sections = tables(&value, "class", report);
    if let Some(first) = sections.get(RULES_MAX) {
        let expected = format!("at most {RULES_MAX} rules [[class]]");
        report.add(first.span(), Some("class"), format!("{} rules", sections.len()), expected);
    }
    for mut section in sections {
        let class = decode_class(&mut section, &mut names, report);
        let span = section.span().clone();
        section.finish(report);
        let Some(class) = class else { continue };
        let before = entries;
        entries += class.entry_count();
        if before <= MAX_CLASS_RULES && entries > MAX_CLASS_RULES {
            let found = format!("{entries} entries up to this rule");
            let expected = format!(
                "at most {MAX_CLASS_RULES} for all rules: each takes one for each of its ranges of ports times each of its \
                 prefixes, this one {} x {}",
                class.ports.len().max(1),
                class.prefixes.len().max(1)
            );
            report.add(&span, Some("class"), found, expected);
        }
        classes.push(class);
    }
    classes
}

fn decode_class(section: &mut Section, names: &mut Unique<String>, report: &mut Report) -> Option<Class> {
    let has_name = section.optional("name").is_some();
    let name = has_name.then(|| decode_name(section, names, report)).flatten();
    let choices = FlowClass::ALL.map(|class| (class.name(), class));
    let expected = choices.map(|(name, _)| format!("\"{name}\"")).join(" or ");
    let class = section.required("class", &expected, report).and_then(|value| value.choice(&choices, report));
    let protocol = section
        .optional("protocol")
        .and_then(|value| value.parse_bare("a protocol's name in quotes or its number", assigned::protocol, report));
    let ports = section.optional("ports").and_then(|value| {
        let ports = value.parse_bare("ports in quotes, for instance \"443, 5000-5100\"", span::ports, report)?;
        match protocol {
            Some(protocol) if ![TCP, UDP].contains(&u32::from(protocol)) => {
                value.wrong("no ports beside a protocol other than tcp and udp", report)
            }
            _ => Some(ports),
        }
    });
    let prefixes = section.optional("prefixes").map(|value| decode_class_prefixes(&value, report));
    let dscp = section
        .optional("dscp")
        .and_then(|value| value.parse_bare("a DSCP's name in quotes or its number", assigned::dscp, report));
    let size = section
        .optional("size")
        .and_then(|value| value.parse("a range of sizes in quotes, for instance \"-200\"", span::sizes, report));
    Some(Class {
        name,
        class: class?,
        protocol,
        ports: ports.unwrap_or_default(),
        prefixes: prefixes.unwrap_or_default(),
        dscp,
        size: size.unwrap_or(class::ANY_SIZE),
    })
}

fn decode_class_prefixes(value: &Value, report: &mut Report) -> Vec<IpNet> {
    let expected = "a list of inner prefixes, at least one: [\"10.98.0.0/24\"]";
    let elements = value.list(expected, report);
    if value.is_empty_list() {
        value.wrong::<()>(expected, report);
    }
    let mut prefixes = Vec::new();
    let mut unique = Unique::default();
    for element in elements {
        let Some(net) = element.parse("a prefix in quotes", prefix::class_prefix, report) else { continue };
        if unique.add(net, &element, "a prefix", report).is_some() {
            prefixes.push(net);
        }
    }
    prefixes
}

/// The elements of an optional list.
fn list<'a>(section: &mut Section<'a>, key: &'static str, expected: &str, report: &mut Report) -> Vec<Value<'a>> {
    section.optional(key).map(|value| value.list(expected, report)).unwrap_or_default()
}
