use super::*;

fn service(name: &str, port: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: {name}\nspec:\n  clusterIP: 127.96.1.1\n  selector:\n    app: {name}\n  ports:\n  - name: http\n    port: {port}\n"
    )
}

fn text(documents: &[String]) -> Content {
    Content::Text(documents.join("---\n"))
}

fn names(changes: &[Change]) -> Vec<String> {
    let name = |change: &Change| match change {
        Change::Upsert(object) => format!("+{}", object.key()),
        Change::Delete(key) => format!("-{key}"),
    };
    changes.iter().map(name).collect()
}

fn put(catalog: &mut Catalog, path: &str, content: Content) -> Vec<String> {
    names(&catalog.update([(path.to_owned(), content)]))
}

#[test]
fn documents_come_and_go() {
    let mut catalog = Catalog::default();
    let both = text(&[service("b", "80"), service("a", "80")]);
    assert_eq!(
        put(&mut catalog, "x.yaml", both.clone()),
        ["+Service default/b", "+Service default/a"]
    );
    assert_eq!(put(&mut catalog, "x.yaml", both), [""; 0]);
    assert_eq!(
        put(&mut catalog, "x.yaml", text(&[service("a", "81")])),
        ["-Service default/b", "+Service default/a"]
    );
    assert_eq!(
        put(&mut catalog, "x.yaml", Content::Gone),
        ["-Service default/a"]
    );
    assert!(catalog.errors().is_empty());
}

#[test]
fn an_invalid_document_leaves_its_last_good_version_in_force_and_the_others_alone() {
    let mut catalog = Catalog::default();
    put(
        &mut catalog,
        "x.yaml",
        text(&[service("a", "80"), service("b", "80")]),
    );
    let changes = put(
        &mut catalog,
        "x.yaml",
        text(&[service("a", "not-a-port"), service("b", "81")]),
    );
    assert_eq!(changes, ["+Service default/b"]);
    let errors = catalog.errors();
    assert_eq!(errors.len(), 1);
    assert_eq!(
        errors[0].key(),
        Some(ObjectKey::namespaced(
            waymark_api::Kind::Service,
            "default",
            "a"
        ))
    );
    assert_eq!(errors[0].field.as_deref(), Some("spec.ports[0].port"));
    // And when its file no longer has it, valid or not, it is gone.
    assert_eq!(
        put(&mut catalog, "x.yaml", text(&[service("b", "81")])),
        ["-Service default/a"]
    );
    assert!(catalog.errors().is_empty());
}

#[test]
fn a_syntax_error_leaves_everything_of_the_file_in_force() {
    let mut catalog = Catalog::default();
    put(
        &mut catalog,
        "x.yaml",
        text(&[service("a", "80"), service("b", "80")]),
    );
    assert_eq!(
        put(
            &mut catalog,
            "x.yaml",
            Content::Text("kind: [Service\n  x: {".to_owned())
        ),
        [""; 0]
    );
    assert_eq!(catalog.errors().len(), 1);
}

#[test]
fn an_unreadable_file_leaves_what_it_said_in_force() {
    let mut catalog = Catalog::default();
    put(&mut catalog, "x.yaml", text(&[service("a", "80")]));
    assert_eq!(
        put(
            &mut catalog,
            "x.yaml",
            Content::Unreadable("permission denied".to_owned())
        ),
        [""; 0]
    );
    assert!(catalog.errors()[0].message.contains("permission denied"));
}

#[test]
fn of_two_documents_for_one_object_the_first_seen_counts() {
    let mut catalog = Catalog::default();
    put(&mut catalog, "x.yaml", text(&[service("a", "80")]));
    assert_eq!(
        put(&mut catalog, "b.yaml", text(&[service("a", "81")])),
        [""; 0]
    );
    let errors = catalog.errors();
    assert_eq!(errors[0].file, "b.yaml");
    assert!(errors[0].message.contains("x.yaml:1"), "{}", errors[0]);
    // The second takes over when the first is gone.
    assert_eq!(
        put(&mut catalog, "x.yaml", Content::Gone),
        ["+Service default/a"]
    );
    assert!(catalog.errors().is_empty());
}

#[test]
fn an_object_that_moves_between_files_in_one_batch_does_not_change() {
    let mut catalog = Catalog::default();
    put(&mut catalog, "x.yaml", text(&[service("a", "80")]));
    let changes = catalog.update([
        ("a.yaml".to_owned(), text(&[service("a", "80")])),
        ("x.yaml".to_owned(), Content::Gone),
    ]);
    assert_eq!(names(&changes), [""; 0]);
    assert_eq!(
        catalog
            .place(&ObjectKey::namespaced(
                waymark_api::Kind::Service,
                "default",
                "a"
            ))
            .map(|p| p.file),
        Some("a.yaml".to_owned())
    );
}

#[test]
fn a_duplicate_within_one_file_names_the_first_place() {
    let mut catalog = Catalog::default();
    put(
        &mut catalog,
        "x.yaml",
        text(&[service("a", "80"), service("a", "81")]),
    );
    let errors = catalog.errors();
    assert_eq!(errors.len(), 1);
    assert!(errors[0].message.contains("x.yaml:1"));
}
