//! What an analysis says, in upstream's forms. Spec: cli-and-admin.md 7.1.

use serde_json::{Value, json};

use crate::error::CliError;
use crate::printer::{Format, structured};

/// How bad it is; in ascending order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum Level {
    /// Worth knowing.
    #[value(name = "Info", alias = "info")]
    Info,
    /// May not do what is meant.
    #[value(name = "Warning", alias = "warning")]
    Warning,
    /// Does not work.
    #[value(name = "Error", alias = "error")]
    Error,
}

impl Level {
    fn as_str(self) -> &'static str {
        match self {
            Self::Info => "Info",
            Self::Warning => "Warning",
            Self::Error => "Error",
        }
    }
}

/// Something about an object. Codes that begin with `IST` are upstream's, those with `WM` ours.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Message {
    pub(crate) object: Object,
    pub(crate) code: &'static str,
    pub(crate) level: Level,
    pub(crate) text: String,
}

/// What a message is about.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Object {
    pub(crate) namespace: Option<String>,
    pub(crate) kind: String,
    pub(crate) name: String,
    /// `<file>:<line>`, for what is from a file.
    pub(crate) place: Option<String>,
}

impl Object {
    /// `<Kind> <name>.<namespace>`.
    pub(crate) fn origin(&self) -> String {
        match &self.namespace {
            Some(namespace) => format!("{} {}.{namespace}", self.kind, self.name),
            None => format!("{} {}", self.kind, self.name),
        }
    }
}

impl Message {
    fn line(&self) -> String {
        let place = self
            .object
            .place
            .as_ref()
            .map_or_else(String::new, |place| format!(" {place}"));
        format!(
            "{} [{}] ({}{place}) {}\n",
            self.level.as_str(),
            self.code,
            self.object.origin(),
            self.text
        )
    }

    fn document(&self) -> Value {
        let mut document = json!({"code": self.code});
        if self.code.starts_with("IST") {
            let code = self.code.to_lowercase();
            document["documentationUrl"] =
                json!(format!("{ANALYSIS}/{code}/?ref=istioctl-analyze"));
        }
        document["level"] = json!(self.level.as_str());
        document["message"] = json!(self.text);
        document["origin"] = json!(self.object.origin());
        if let Some(place) = &self.object.place {
            document["reference"] = json!(place);
        }
        document
    }
}

/// The text of messages, in the order of their objects.
pub(crate) fn render(messages: &[Message], format: Option<Format>) -> String {
    match format {
        None => messages.iter().map(Message::line).collect(),
        Some(format) => {
            let documents: Value = messages.iter().map(Message::document).collect();
            match format {
                Format::Yaml => structured(&documents, format),
                // Upstream indents this one by tabs.
                Format::Json | Format::Table => {
                    structured(&documents, Format::Json).replace("    ", "\t")
                }
            }
        }
    }
}

/// `CODE=Kind name.namespace`, where names may have `*` in them.
#[derive(Debug, Clone)]
pub(crate) struct Suppression {
    code: String,
    origin: String,
}

impl Suppression {
    /// Reads one.
    ///
    /// # Errors
    /// When it has no `=`.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let (code, origin) = text
            .split_once('=')
            .ok_or_else(|| format!("\"{text}\" is not CODE=Kind name.namespace"))?;
        Ok(Self {
            code: code.to_owned(),
            origin: origin.to_owned(),
        })
    }

    pub(crate) fn fits(&self, message: &Message) -> bool {
        self.code == message.code && glob(&self.origin, &message.object.origin())
    }
}

/// Whether the text is like the pattern, in which `*` is any characters.
fn glob(pattern: &str, text: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else {
        return pattern == text;
    };
    let Some(mut left) = text.strip_prefix(first) else {
        return false;
    };
    let mut parts: Vec<&str> = rest.split('*').collect();
    let last = parts.pop().unwrap_or_default();
    for part in parts {
        match left.find(part) {
            Some(at) => left = &left[at + part.len()..],
            None => return false,
        }
    }
    left.ends_with(last)
}

/// What an analysis with issues at or above the threshold ends with.
pub(crate) fn issues(scope: &str) -> CliError {
    CliError::Issues(format!(
        "Analyzers found issues when analyzing {scope}.\nSee {ANALYSIS} for more information about causes and resolutions."
    ))
}

const ANALYSIS: &str = "https://istio.io/v1.32/docs/reference/config/analysis";

#[cfg(test)]
mod tests {
    use super::*;

    fn message() -> Message {
        Message {
            object: Object {
                namespace: Some("shop".into()),
                kind: "VirtualService".into(),
                name: "reviews".into(),
                place: Some("shop.yaml:7".into()),
            },
            code: "IST0106",
            level: Level::Error,
            text: "Schema validation error: no".into(),
        }
    }

    #[test]
    fn lines_and_documents_are_upstreams() {
        assert_eq!(
            render(&[message()], None),
            "Error [IST0106] (VirtualService reviews.shop shop.yaml:7) Schema validation error: no\n"
        );
        assert_eq!(
            render(&[message()], Some(Format::Json)),
            "[\n\t{\n\t\t\"code\": \"IST0106\",\n\
             \t\t\"documentationUrl\": \"https://istio.io/v1.32/docs/reference/config/analysis/ist0106/?ref=istioctl-analyze\",\n\
             \t\t\"level\": \"Error\",\n\t\t\"message\": \"Schema validation error: no\",\n\
             \t\t\"origin\": \"VirtualService reviews.shop\",\n\t\t\"reference\": \"shop.yaml:7\"\n\t}\n]\n"
        );
    }

    #[test]
    fn what_is_not_wanted_is_named_by_code_and_object() {
        for (text, want) in [
            ("IST0106=VirtualService reviews.shop", true),
            ("IST0106=VirtualService *.shop", true),
            ("IST0106=*", true),
            ("IST0106=* r*s.*op", true),
            ("IST0106=VirtualService *.other", false),
            ("IST0171=*", false),
        ] {
            let suppression = Suppression::parse(text).expect(text);
            assert_eq!(suppression.fits(&message()), want, "{text}");
        }
        assert!(Suppression::parse("IST0106").is_err());
    }
}
