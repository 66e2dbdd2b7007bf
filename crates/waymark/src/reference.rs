//! `docs/reference/cli.md`: every command and flag, written from the program itself. The test fails when it is stale;
//! `UPDATE_REFERENCE=1 cargo test -p waymark reference` writes it anew.

use std::path::Path;

use clap::{Arg, Command};

fn markdown(command: &Command) -> String {
    let mut text = String::from(
        "# Commands and flags\n\nWritten from the program by its own test; do not edit. Every command takes the flags of `waymark` itself too.\n",
    );
    section(command, command.get_name(), true, &mut text);
    text
}

fn section(command: &Command, path: &str, root: bool, text: &mut String) {
    text.push_str(&format!("\n## `{path}`\n\n"));
    if let Some(about) = command.get_about() {
        text.push_str(&format!("{about}\n"));
    }
    let mut aliases: Vec<&str> = command.get_all_aliases().collect();
    aliases.sort_unstable();
    if !aliases.is_empty() {
        text.push_str(&format!(
            "\nAlso: {}.\n",
            aliases
                .iter()
                .map(|a| format!("`{a}`"))
                .collect::<Vec<_>>()
                .join(", ")
        ));
    }
    let arguments: Vec<&Arg> = command
        .get_arguments()
        .filter(|a| {
            !a.is_hide_set()
                && (root || !a.is_global_set())
                && !matches!(a.get_id().as_str(), "help" | "version")
        })
        .collect();
    if !arguments.is_empty() {
        text.push_str("\n| flag | meaning | default | environment |\n|---|---|---|---|\n");
        for argument in arguments {
            text.push_str(&row(argument));
        }
    }
    for sub in command.get_subcommands().filter(|c| !c.is_hide_set()) {
        section(sub, &format!("{path} {}", sub.get_name()), false, text);
    }
}

fn row(argument: &Arg) -> String {
    let value = argument
        .get_value_names()
        .filter(|_| argument.get_action().takes_values())
        .map(|names| {
            names
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join(" ")
        });
    let name = match (argument.get_short(), argument.get_long()) {
        (Some(short), Some(long)) => format!("-{short}, --{long}"),
        (None, Some(long)) => format!("--{long}"),
        (Some(short), None) => format!("-{short}"),
        (None, None) => String::new(),
    };
    let name = match (name.is_empty(), value) {
        (true, value) => value.unwrap_or_default(),
        (false, Some(value)) => format!("{name} {value}"),
        (false, None) => name,
    };
    let default: Vec<String> = argument
        .get_default_values()
        .iter()
        .filter(|_| !argument.is_hide_default_value_set() && argument.get_action().takes_values())
        .map(|v| v.to_string_lossy().into_owned())
        .collect();
    let environment = argument
        .get_env()
        .map(|e| e.to_string_lossy().into_owned())
        .unwrap_or_default();
    let help = argument
        .get_help()
        .map(ToString::to_string)
        .unwrap_or_default()
        .replace('\n', " ");
    let code = |s: &str| {
        if s.is_empty() {
            String::new()
        } else {
            format!("`{}`", s.replace('|', "\\|"))
        }
    };
    format!(
        "| {} | {} | {} | {} |\n",
        code(&name),
        help.replace('|', "\\|"),
        code(&default.join(",")),
        code(&environment)
    )
}

#[test]
fn every_command_and_flag_is_in_the_reference() {
    use clap::CommandFactory as _;
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference/cli.md");
    let mut command = crate::App::command();
    command.build();
    let text = markdown(&command);
    if std::env::var_os("UPDATE_REFERENCE").is_some() {
        std::fs::write(&path, &text).expect("write docs/reference/cli.md");
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == text,
        "docs/reference/cli.md is stale: UPDATE_REFERENCE=1 cargo test -p waymark reference"
    );
}

#[test]
fn every_flag_says_what_it_does() {
    use clap::CommandFactory as _;
    fn check(command: &Command, path: &str, silent: &mut Vec<String>) {
        for argument in command.get_arguments().filter(|a| !a.is_hide_set()) {
            if argument.get_help().is_none_or(|h| h.to_string().is_empty()) {
                silent.push(format!("{path} {}", argument.get_id()));
            }
        }
        for sub in command.get_subcommands() {
            check(sub, &format!("{path} {}", sub.get_name()), silent);
        }
    }
    let mut command = crate::App::command();
    command.build();
    let mut silent = Vec::new();
    check(&command, "waymark", &mut silent);
    assert_eq!(silent, Vec::<String>::new());
}
