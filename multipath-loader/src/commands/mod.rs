//! What the commands do: one file for each.

pub mod class;
pub mod completions;
pub mod doctor;
pub mod down;
pub mod genkey;
pub mod genpsk;
pub mod path;
pub mod path_log;
mod path_quality;
pub mod pubkey;
pub mod reload;
pub mod status;
mod units;
pub mod up;

use crate::cli::{Class, Cli, Command, Path};

/// Runs the command.
///
/// # Errors
/// Whatever made it fail, with what to do.
pub async fn run(cli: &Cli) -> anyhow::Result<()> {
    match &cli.command {
        Command::Up(args) => up::up(args, &cli.global).await,
        Command::Down(args) => down::down(args, &cli.global).await,
        Command::Reload(args) => reload::reload(args, &cli.global).await,
        Command::Status(args) => status::status(args, &cli.global).await,
        Command::Path(Path::List(args)) => path::list(args, &cli.global).await,
        Command::Path(Path::Set(args)) => path::set(args, &cli.global).await,
        Command::Path(Path::Log(args)) => path_log::log(args, &cli.global).await,
        Command::Class(Class::List(args)) => class::list(args, &cli.global).await,
        Command::Genkey => genkey::genkey(),
        Command::Genpsk => genpsk::genpsk(),
        Command::Pubkey => pubkey::pubkey(),
        Command::Doctor(args) => doctor::doctor(args, &cli.global).await,
        Command::Completions(args) => completions::completions(args),
    }
}
