//! The fuzz targets on everything that was kept.

use std::path::Path;

use waymark_engine::fuzz;

type Target = fn(&[u8]);

#[test]
fn the_corpus_of_every_target_replays() {
    let targets: [(&str, Target); 4] = [
        ("server", fuzz::fuzz_server),
        ("client", fuzz::fuzz_client),
        ("hpack", fuzz::fuzz_hpack),
        ("pair", fuzz::fuzz_pair),
    ];
    for (name, target) in targets {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("corpus")
            .join(name);
        let mut count = 0;
        for entry in std::fs::read_dir(&directory).unwrap() {
            let input = std::fs::read(entry.unwrap().path()).unwrap();
            target(&input);
            count += 1;
        }
        assert!(count >= 5, "{name} has a corpus");
    }
}
