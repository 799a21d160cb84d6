//! The command line of `mpvpn`.

use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand};

use crate::config::{Rate, WEIGHT_MAX, WEIGHT_MIN, check_tunnel_name};

/// Everything that stands on the command line.
#[derive(Debug, Parser)]
#[command(
    name = "mpvpn",
    version,
    about = "One fast connection over several uplinks: a UDP multipath VPN with its data plane in the kernel",
    long_about = "One fast connection over several uplinks: a UDP multipath VPN with its data plane in the kernel.\n\n\
                  A tunnel is described by one file, /etc/mpvpn/NAME.toml. `mpvpn up NAME` runs its daemon in the \
                  foreground; all other commands act on the tunnel's pinned BPF maps, whether the daemon runs or not.",
    after_help = "Exit status: 0 done, 1 failed (the reason is on stderr), 2 wrong usage.\n\n\
                  Example, a first tunnel:\n  \
                  umask 077; mpvpn genkey > /etc/mpvpn/mp0.key\n  \
                  mpvpn pubkey < /etc/mpvpn/mp0.key\n  \
                  mpvpn doctor mp0\n  \
                  mpvpn up mp0"
)]
pub struct Cli {
    /// Options of every command.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Debug, Clone, Args)]
pub struct Global {
    /// Where bpffs is; it is mounted there if it is not
    #[arg(long, global = true, value_name = "DIR", env = "MPVPN_BPFFS", default_value = "/sys/fs/bpf")]
    pub bpffs: PathBuf,

    /// Where the daemon keeps what must survive a reboot: how much of their quotas the uplinks have used
    #[arg(long, global = true, value_name = "DIR", env = "MPVPN_STATE", default_value = "/var/lib/mpvpn")]
    pub state: PathBuf,

    /// Say more on stderr; twice: everything. `RUST_LOG` overrides it
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub verbose: u8,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Bring a tunnel up and keep it up (foreground)
    ///
    /// Reads the tunnel's file, makes its device, loads the programs, and follows the network from then on. Nothing is
    /// applied if the file has an error. A tunnel that is up already is taken over without losing a packet.
    ///
    /// Ctrl-C takes the tunnel down. SIGTERM (and SIGKILL) end the daemon only: the kernel goes on forwarding until the
    /// sessions end, three minutes after their last handshake at most, and the next `mpvpn up` takes over.
    #[command(after_help = "Example: mpvpn up mp0\n         mpvpn up --check ./mp0.toml")]
    Up(Up),

    /// Take a tunnel down: programs, maps and device
    ///
    /// Removes everything that `mpvpn up` made, also if its daemon is dead. A daemon that runs ends.
    #[command(after_help = "Example: mpvpn down mp0")]
    Down(Down),

    /// Have the daemon of a tunnel read its file anew
    ///
    /// Uplinks, endpoints, peers, weights, rates, roles, quotas and flows become those of the file while packets pass; what
    /// stays the same is not touched. The file is the one that the daemon was started with. If anything in it is wrong,
    /// nothing of it is applied, and every error is said here. Exit status 0: the new configuration is in force.
    ///
    /// Another private key or `listen_port`, and more peers than the maps have room for, take a restart of the daemon.
    #[command(after_help = "Example: mpvpn reload mp0")]
    Reload(Reload),

    /// Show tunnels: peers, paths and how good they are, drops
    ///
    /// Reads the pinned maps and sums them over all CPUs. Works without a daemon; then what was measured has the age that is
    /// said. For each peer it says how its packets are protected and since when the session has its keys.
    ///
    /// Of each path: its health (up, lossy, stalled, down, probing, backup, disabled), role, share of the flows, smoothed
    /// round trip with deviation and its minimum, and then, out (to the peer) and in: one-way delay (without a common
    /// clock: to be compared among the paths of a peer), jitter, packets lost in the last 5 seconds, what arrives; what it
    /// can carry out, as far as a limit was met; the largest outer packet that passes; bytes sent and received. More spans
    /// of time and counters are in --json.
    ///
    /// `bond out` names the paths that aggregate flows to the peer take together; `bond in` says what share of those from the
    /// peer came by each path, how long packets are held to be delivered in order, and how many came too late for that or
    /// could not be held.
    #[command(after_help = "Example: mpvpn status\n         mpvpn status mp0 --json")]
    Status(Status),

    /// Show and change paths
    ///
    /// A path is an uplink combined with an endpoint of a peer. Its name is PEER/UPLINK, PEER/UPLINK/2 for the peer's
    /// second endpoint on that uplink, PEER/UPLINK#2 for the uplink's second flow.
    #[command(
        subcommand,
        after_help = "Example: mpvpn path list\n         mpvpn path set lte backup\n         mpvpn path log --follow"
    )]
    Path(Path),

    /// Show which flows are carried how
    ///
    /// Packets of a flow are carried as `pin` (by one path), `aggregate` (by all paths together, delivered by time) or
    /// `duplicate` (by two paths at once while they have room). The `[[class]]` rules of the tunnel's file say which; without
    /// one a flow is pinned until it fills its path, and becomes aggregate then.
    #[command(subcommand, after_help = "Example: mpvpn class list\n         mpvpn class list mp0 --json")]
    Class(Class),

    /// Print a new private key
    ///
    /// The key is 32 random bytes in base64. Keep it where only root can read it.
    #[command(after_help = "Example: umask 077; mpvpn genkey > /etc/mpvpn/mp0.key")]
    Genkey,

    /// Print a new preshared key
    ///
    /// 32 random bytes in base64, for the `preshared_key_file` of two peers. Give it to the other gateway on a way that
    /// nobody else can read, and keep it where only root can.
    #[command(after_help = "Example: umask 077; mpvpn genpsk > /etc/mpvpn/hub.psk")]
    Genpsk,

    /// Print the public key of the private key on stdin
    #[command(after_help = "Example: mpvpn pubkey < /etc/mpvpn/mp0.key")]
    Pubkey,

    /// Check whether this machine can run a tunnel, and say what to do
    ///
    /// Each line is ok, warn or fail, with what to do about it. With a tunnel's file it also checks its uplinks,
    /// routes, sysctls and port. It changes nothing. Exit status 1 if a check failed; warnings do not count.
    #[command(after_help = "Example: mpvpn doctor\n         mpvpn doctor mp0 --json")]
    Doctor(Doctor),

    /// Print a shell's completions
    #[command(after_help = "Example: mpvpn completions bash > /etc/bash_completion.d/mpvpn")]
    Completions(Completions),
}

/// `mpvpn up`.
#[derive(Debug, Clone, Args)]
pub struct Up {
    /// The tunnel's file, or its name: NAME is /etc/mpvpn/NAME.toml
    #[arg(value_name = "FILE")]
    pub file: PathBuf,

    /// Only check the file, apply nothing
    #[arg(long)]
    pub check: bool,

    /// Attach TC programs as on kernels before 6.6, by a clsact qdisc: for tests of that way on a newer one
    #[arg(long, hide = true)]
    pub clsact: bool,

    /// Change the keys of a session after so many seconds, and let it end after one and a half times as many: for tests
    #[arg(long, hide = true, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..=120))]
    pub rekey_after: Option<u32>,
}

/// `mpvpn down`.
#[derive(Debug, Clone, Args)]
pub struct Down {
    /// The tunnel's name
    #[arg(value_name = "NAME", value_parser = tunnel_name)]
    pub name: String,
}

/// `mpvpn reload`.
#[derive(Debug, Clone, Args)]
pub struct Reload {
    /// The tunnel's name
    #[arg(value_name = "NAME", value_parser = tunnel_name)]
    pub name: String,
}

/// `mpvpn status`.
#[derive(Debug, Clone, Args)]
pub struct Status {
    /// The tunnel's name; all tunnels if it is left out
    #[arg(value_name = "NAME", value_parser = tunnel_name)]
    pub name: Option<String>,

    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// `mpvpn class`.
#[derive(Debug, Clone, Subcommand)]
pub enum Class {
    /// List the rules, and what each has caught
    ///
    /// Of each rule in the file's order: its class, how often a new flow (or a packet that differs from the flow's others) was
    /// looked up and came to it, and how its packets were carried since the tunnel came up: packets, bytes, and what of
    /// them went by two paths. The last lines are those of flows that no rule has caught.
    ///
    /// They need not be carried as their class says: a duplicate packet that finds the paths busy goes once, an aggregate flow
    /// without paths that fit together is pinned.
    #[command(after_help = "Example: mpvpn class list\n         mpvpn class list mp0 --json")]
    List(ClassList),
}

/// `mpvpn class list`.
#[derive(Debug, Clone, Args)]
pub struct ClassList {
    /// The tunnel's name; may be left out if there is only one
    #[arg(value_name = "NAME", value_parser = tunnel_name)]
    pub name: Option<String>,

    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// `mpvpn path`.
#[derive(Debug, Clone, Subcommand)]
pub enum Path {
    /// List the paths: state, role, weight, rate, addresses, counters
    #[command(after_help = "Example: mpvpn path list mp0 --json")]
    List(PathList),

    /// Set a path's role, weight or rate, at once
    ///
    /// They are the operator's values: they stand above the file's and what was measured, and stay when the daemon dies or
    /// restarts. `auto` gives them back. The stricter role of both gateways is in force, so a path that is put down at one
    /// end is down at both.
    #[command(
        subcommand_value_name = "SETTING",
        subcommand_help_heading = "Settings",
        disable_help_subcommand = true,
        after_help = "Example: mpvpn path set lte down\n         \
                            mpvpn path set hub/lte auto\n         \
                            mpvpn path set hub/dsl weight 30\n         \
                            mpvpn path set dsl rate 8mbit\n         \
                            mpvpn path set dsl weight auto"
    )]
    Set(PathSet),

    /// Show what has happened to the paths, and why
    ///
    /// The last thousand changes, oldest first, in UTC.
    #[command(after_help = "Example: mpvpn path log\n         mpvpn path log mp0 --path lte --follow")]
    Log(PathLog),
}

/// `mpvpn path list`.
#[derive(Debug, Clone, Args)]
pub struct PathList {
    /// The tunnel's name; may be left out if there is only one
    #[arg(value_name = "NAME", value_parser = tunnel_name)]
    pub name: Option<String>,

    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// `mpvpn path set`.
#[derive(Debug, Clone, Args)]
pub struct PathSet {
    /// The tunnel's name; may be left out if there is only one
    #[arg(long, global = true, value_name = "NAME", value_parser = tunnel_name)]
    pub tunnel: Option<String>,

    /// The path's name, PEER/UPLINK, or an uplink's name for all its paths
    #[arg(value_name = "PATH")]
    pub path: String,

    /// What to set
    #[command(subcommand)]
    pub setting: Setting,
}

/// `mpvpn path log`.
#[derive(Debug, Clone, Args)]
pub struct PathLog {
    /// The tunnel's name; may be left out if there is only one
    #[arg(value_name = "NAME", value_parser = tunnel_name)]
    pub name: Option<String>,

    /// Only this path, PEER/UPLINK, or all of an uplink
    #[arg(long, value_name = "PATH")]
    pub path: Option<String>,

    /// Wait for further changes, until Ctrl-C or the end of the tunnel
    #[arg(short, long)]
    pub follow: bool,

    /// Print one JSON object; with --follow one for each change, on a line of its own
    #[arg(long)]
    pub json: bool,
}

/// What `mpvpn path set` sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Subcommand)]
pub enum Setting {
    /// Use it, whatever its role in the file is (the same as active)
    Up,
    /// Use it for nothing but probes
    Down,
    /// Use it
    Active,
    /// Use it when no active path works
    Backup,
    /// Use it when no active and no backup path works, and probe it seldom
    Metered,
    /// Give the role back to the file
    Auto,
    /// The path's share of the flows, without a unit
    Weight {
        /// A whole number from 1 to 1000000, or auto
        #[arg(value_name = "VALUE", value_parser = weight)]
        value: Operator<u32>,
    },
    /// The path's egress rate
    Rate {
        /// A rate with its unit (bit, kbit, mbit or gbit), or auto
        #[arg(value_name = "VALUE", value_parser = rate)]
        value: Operator<Rate>,
    },
}

/// What an operator says about a value that is automatic by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operator<T> {
    /// Leave it to the daemon.
    Automatic,
    /// This.
    Fixed(T),
}

impl<T> Operator<T> {
    /// The fixed value, if there is one.
    pub fn fixed(self) -> Option<T> {
        match self {
            Self::Automatic => None,
            Self::Fixed(value) => Some(value),
        }
    }
}

/// `mpvpn doctor`.
#[derive(Debug, Clone, Args)]
pub struct Doctor {
    /// A tunnel's file or name, to check its uplinks too: NAME is /etc/mpvpn/NAME.toml
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,

    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// `mpvpn completions`.
#[derive(Debug, Clone, Args)]
pub struct Completions {
    /// The shell
    #[arg(value_name = "SHELL")]
    pub shell: clap_complete::Shell,
}

fn tunnel_name(name: &str) -> Result<String, String> {
    check_tunnel_name(name).map(|()| name.to_owned()).map_err(|expected| format!("expected {expected}"))
}

fn weight(value: &str) -> Result<Operator<u32>, String> {
    match value.parse() {
        _ if value == "auto" => Ok(Operator::Automatic),
        Ok(weight) if (WEIGHT_MIN..=WEIGHT_MAX).contains(&weight) => Ok(Operator::Fixed(weight)),
        _ => Err(format!("expected a whole number from {WEIGHT_MIN} to {WEIGHT_MAX}, or auto")),
    }
}

fn rate(value: &str) -> Result<Operator<Rate>, String> {
    match value.parse() {
        _ if value == "auto" => Ok(Operator::Automatic),
        Ok(rate) => Ok(Operator::Fixed(rate)),
        Err(expected) => Err(format!("expected {expected}, or auto")),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split_whitespace())
    }

    fn path_set(line: &str) -> PathSet {
        match parse(line).unwrap().command {
            Command::Path(Path::Set(set)) => set,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn clap_finds_no_mistake() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_has_an_example() {
        fn check(command: &clap::Command) {
            // What `path set` sets are words of its own line.
            for sub in command.get_subcommands().filter(|_| command.get_name() != "set") {
                assert!(sub.get_about().is_some(), "{}", sub.get_name());
                let help = sub.get_after_help().map(ToString::to_string).unwrap_or_default();
                assert!(help.contains("Example: "), "{}", sub.get_name());
                check(sub);
            }
        }
        check(&Cli::command());
    }

    #[test]
    fn path_set_as_documented() {
        let set = path_set("mpvpn path set hub/dsl weight 30");
        assert_eq!((set.path.as_str(), set.tunnel), ("hub/dsl", None));
        assert_eq!(set.setting, Setting::Weight { value: Operator::Fixed(30) });

        let set = path_set("mpvpn path set --tunnel mp0 dsl rate 8mbit");
        assert_eq!(set.tunnel.as_deref(), Some("mp0"));
        assert_eq!(set.setting, Setting::Rate { value: Operator::Fixed(Rate::from_kbit(8000).unwrap()) });

        let set = path_set("mpvpn path set dsl rate auto --tunnel mp0");
        assert_eq!(set.tunnel.as_deref(), Some("mp0"));
        assert_eq!(set.setting, Setting::Rate { value: Operator::Automatic });

        for (word, setting) in [
            ("up", Setting::Up),
            ("down", Setting::Down),
            ("active", Setting::Active),
            ("backup", Setting::Backup),
            ("metered", Setting::Metered),
            ("auto", Setting::Auto),
        ] {
            assert_eq!(path_set(&format!("mpvpn path set hub/lte#2 {word}")).setting, setting);
        }
    }

    #[test]
    fn wrong_values_are_usage_errors() {
        for line in [
            "mpvpn path set dsl weight 0",
            "mpvpn path set dsl weight 1000001",
            "mpvpn path set dsl rate 8",
            "mpvpn path set dsl colour red",
            "mpvpn path set dsl",
            "mpvpn path set dsl down 3",
            "mpvpn path log mp0 dsl",
            "mpvpn reload",
            "mpvpn down a-name-that-is-too-long",
            "mpvpn up",
            "mpvpn up mp0 --rekey-after 0",
            "mpvpn up mp0 --rekey-after 121",
        ] {
            assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line}");
        }
    }

    #[test]
    fn global_options_stand_anywhere() {
        let cli = parse("mpvpn status -vv --bpffs /run/bpf").unwrap();
        assert_eq!((cli.global.verbose, cli.global.bpffs), (2, PathBuf::from("/run/bpf")));
    }
}
