//! `crds`: the custom resource definitions of the Istio kinds that are read.

use clap::Args;
use serde_json::{Value, json};
use waymark_api::crd::{self, CustomKind};
use waymark_api::yaml::to_yaml;

use crate::{CliError, Context};

/// Arguments of `crds`.
///
/// Those of the Gateway API are upstream's and not among them:
/// `kubectl apply --server-side -f https://github.com/kubernetes-sigs/gateway-api/releases/download/v1.5.0/standard-install.yaml`
#[derive(Debug, Clone, Args)]
pub struct CrdsArgs {
    /// Only these kinds, by kind, plural or short name [default: every kind that is read].
    #[arg(value_name = "KIND")]
    kinds: Vec<String>,
    /// How they are printed.
    #[arg(short, long, value_enum, default_value_t = Format::Yaml)]
    output: Format,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Format {
    /// Documents, for `kubectl apply -f -`.
    Yaml,
    /// One list.
    Json,
    /// Their names.
    Name,
}

pub(crate) fn run(args: &CrdsArgs, cx: &mut Context<'_>) -> Result<(), CliError> {
    let text = print(&selected(&args.kinds)?, args.output);
    cx.out.write_all(text.as_bytes()).map_err(CliError::Output)
}

fn selected(names: &[String]) -> Result<Vec<CustomKind>, CliError> {
    let known = |name: &String| crd::ALL.iter().any(|custom| custom.is_called(name));
    if let Some(unknown) = names.iter().find(|name| !known(name)) {
        let all: Vec<&str> = crd::ALL.iter().map(|custom| custom.plural).collect();
        return Err(CliError::Usage(format!(
            "no definition of kind {unknown:?} here (there are: {})",
            all.join(", ")
        )));
    }
    let wanted =
        |custom: &CustomKind| names.is_empty() || names.iter().any(|name| custom.is_called(name));
    Ok(crd::ALL.into_iter().filter(wanted).collect())
}

fn print(kinds: &[CustomKind], format: Format) -> String {
    let definitions = || kinds.iter().map(CustomKind::definition);
    match format {
        Format::Yaml => {
            let documents: Vec<String> = definitions().map(|d| to_yaml(&d)).collect();
            documents.join("---\n")
        }
        Format::Json => {
            let items: Vec<Value> = definitions().collect();
            let list = json!({"apiVersion": "v1", "kind": "List", "items": items});
            format!("{list:#}\n")
        }
        Format::Name => kinds
            .iter()
            .map(|custom| {
                format!(
                    "customresourcedefinition.apiextensions.k8s.io/{}\n",
                    custom.name()
                )
            })
            .collect(),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_selection_is_printed_in_a_fixed_order() {
        let names = ["we", "DestinationRule"].map(str::to_owned);
        let kinds = selected(&names).unwrap();
        assert_eq!(
            print(&kinds, Format::Name),
            "customresourcedefinition.apiextensions.k8s.io/destinationrules.networking.istio.io\n\
             customresourcedefinition.apiextensions.k8s.io/workloadentries.networking.istio.io\n"
        );
        assert_eq!(print(&kinds, Format::Yaml).matches("\n---\n").count(), 1);
    }

    #[test]
    fn a_kind_that_is_not_read_is_wrong_usage() {
        let error = selected(&["Sidecar".to_owned()]).unwrap_err();
        assert_eq!(error.exit_code(), 64);
        assert!(error.to_string().contains("virtualservices"));
    }
}
