//! `postbell template check|preview`.

/// What to do with the templates.
#[derive(clap::Subcommand, Debug)]
pub enum Command {
    /// Find every problem in the folder of templates
    Check,
}

/// Runs the command.
pub fn run(_command: Command) -> anyhow::Result<()> {
    Ok(())
}
