//! The fuzz targets on everything that was kept.

use std::path::Path;

use waymark_engine::{fuzz, http1};

type Target = fn(&[u8]);

#[test]
fn the_corpus_of_every_target_replays() {
    let targets: [(&str, Target); 8] = [
        ("h2_server", fuzz::fuzz_server),
        ("h2_client", fuzz::fuzz_client),
        ("h2_pair", fuzz::fuzz_pair),
        ("hpack", fuzz::fuzz_hpack),
        ("http1_request", http1::fuzz::fuzz_request),
        ("http1_response", http1::fuzz::fuzz_response),
        ("http1_chunked", http1::fuzz::fuzz_chunked),
        ("http1_exchange", http1::fuzz::fuzz_exchange),
    ];
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let fuzzed = std::fs::read_dir(root.join("../../fuzz/fuzz_targets")).unwrap();
    assert_eq!(fuzzed.count(), targets.len(), "a target is not replayed");
    for (name, target) in targets {
        let mut count = 0;
        for entry in std::fs::read_dir(root.join("corpus").join(name)).unwrap() {
            let input = std::fs::read(entry.unwrap().path()).unwrap();
            target(&input);
            count += 1;
        }
        assert!(count >= 5, "{name} has a corpus");
    }
}
