//! When a request is tried again.

use waymark_api::istio::virtual_service::{Retries, RetryCondition};

use super::super::input::MeshSettings;
use super::super::wire::{any, duration, ext, route, u32_value};
use route::RetryPolicy;
use route::retry_policy::{
    RetryBackOff, RetryHostPredicate, RetryPriority, retry_host_predicate, retry_priority,
};

/// Whether a further try avoids the hosts of those before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PreviousHosts {
    /// It does.
    Avoid,
    /// It goes where the hash says.
    Allow,
}

/// The policy of a route: the mesh's where it says nothing, none where it says so.
pub(super) fn policy(
    mesh: &MeshSettings,
    retries: Option<&Retries>,
    previous_hosts: PreviousHosts,
) -> Option<RetryPolicy> {
    let attempts = retries.map_or(mesh.default_retry.attempts, |retries| retries.attempts);
    if attempts == 0 {
        return None;
    }
    let (retry_on, codes) = match retries {
        Some(retries) if retries.retry_on.is_some() => own_conditions(retries),
        _ => default_conditions(&mesh.default_retry.retry_on),
    };
    let avoid = match retries {
        None
        | Some(Retries {
            ignore_previous_hosts: true,
            ..
        }) => previous_hosts == PreviousHosts::Avoid,
        Some(_) => false,
    };
    Some(RetryPolicy {
        retry_on,
        num_retries: Some(u32_value(attempts)),
        per_try_timeout: retries
            .and_then(|retries| retries.per_try_timeout)
            .map(duration),
        retry_priority: retries
            .filter(|retries| retries.retry_remote_localities)
            .map(|_| previous_priorities()),
        retry_host_predicate: avoid.then(previous_hosts_predicate).into_iter().collect(),
        host_selection_retry_max_attempts: 5,
        retriable_status_codes: codes,
        retry_back_off: retries
            .and_then(|retries| retries.backoff)
            .map(|interval| RetryBackOff {
                base_interval: Some(duration(interval)),
                ..Default::default()
            }),
        ..Default::default()
    })
}

/// The conditions in their order, `retriable-status-codes` among them if there are codes.
fn own_conditions(retries: &Retries) -> (String, Vec<u32>) {
    let mut conditions: Vec<&str> = retries
        .conditions
        .iter()
        .map(|condition| condition.as_str())
        .collect();
    if !retries.codes.is_empty()
        && !retries
            .conditions
            .contains(&RetryCondition::RetriableStatusCodes)
    {
        conditions.push(RetryCondition::RetriableStatusCodes.as_str());
    }
    (
        conditions.join(","),
        retries.codes.iter().copied().map(u32::from).collect(),
    )
}

/// The same from text.
fn default_conditions(text: &str) -> (String, Vec<u32>) {
    let codes = RetryCondition::RetriableStatusCodes.as_str();
    let parts = text
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty());
    let (numbers, mut names): (Vec<&str>, Vec<&str>) =
        parts.partition(|part| part.parse::<u32>().is_ok());
    let numbers: Vec<u32> = numbers
        .into_iter()
        .filter_map(|number| number.parse().ok())
        .collect();
    if !numbers.is_empty() && !names.contains(&codes) {
        names.push(codes);
    }
    (names.join(","), numbers)
}

fn previous_hosts_predicate() -> RetryHostPredicate {
    let config = ext::retry::host::previous_hosts::v3::PreviousHostsPredicate {};
    RetryHostPredicate {
        name: "envoy.retry_host_predicates.previous_hosts".to_owned(),
        config_type: Some(retry_host_predicate::ConfigType::TypedConfig(any(&config))),
    }
}

fn previous_priorities() -> RetryPriority {
    let config = ext::retry::priority::previous_priorities::v3::PreviousPrioritiesConfig {
        update_frequency: 2,
    };
    RetryPriority {
        name: "envoy.retry_priorities.previous_priorities".to_owned(),
        config_type: Some(retry_priority::ConfigType::TypedConfig(any(&config))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_split_from_conditions() {
        assert_eq!(
            default_conditions("5xx, reset,503,429"),
            (
                "5xx,reset,retriable-status-codes".to_owned(),
                vec![503, 429]
            )
        );
        assert_eq!(default_conditions("reset"), ("reset".to_owned(), vec![]));
    }
}
