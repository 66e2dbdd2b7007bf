//! Makes a descriptor set as small as JSON needs it.

use std::collections::{BTreeMap, BTreeSet};

use prost_types::{
    DescriptorProto, EnumDescriptorProto, EnumOptions, FieldDescriptorProto, FieldOptions,
    FileDescriptorProto, FileDescriptorSet, MessageOptions,
};

/// Drops services, comments and every option that does not change the wire format or the JSON form, and then the files
/// that `roots` do not reach any more (annotations, above all).
pub(crate) fn prune(mut set: FileDescriptorSet, roots: &[String]) -> FileDescriptorSet {
    set.file.iter_mut().for_each(prune_file);
    let defines: BTreeMap<String, BTreeSet<String>> = set
        .file
        .iter()
        .map(|file| (file.name().to_owned(), defined(file)))
        .collect();
    for file in &mut set.file {
        let mut used = BTreeSet::new();
        file.message_type
            .iter()
            .for_each(|message| message_refs(message, &mut used));
        file.dependency.retain(|name| {
            defines
                .get(name)
                .is_some_and(|defines| !defines.is_disjoint(&used))
        });
    }
    let mut reached: BTreeSet<String> = roots.iter().cloned().collect();
    // Importers come after what they import.
    for file in set
        .file
        .iter()
        .rev()
        .filter(|file| !file.dependency.is_empty())
    {
        if reached.contains(file.name()) {
            reached.extend(file.dependency.iter().cloned());
        }
    }
    set.file.retain(|file| reached.contains(file.name()));
    set
}

fn prune_file(file: &mut FileDescriptorProto) {
    file.service.clear();
    file.public_dependency.clear();
    file.weak_dependency.clear();
    file.extension.clear();
    file.options = None;
    file.source_code_info = None;
    file.message_type.iter_mut().for_each(prune_message);
    file.enum_type.iter_mut().for_each(prune_enum);
}

fn prune_message(message: &mut DescriptorProto) {
    message.extension.clear();
    message.extension_range.clear();
    message.reserved_range.clear();
    message.reserved_name.clear();
    message.options = message
        .options
        .take()
        .and_then(|options| options.map_entry)
        .map(|map_entry| MessageOptions {
            map_entry: Some(map_entry),
            ..MessageOptions::default()
        });
    message
        .oneof_decl
        .iter_mut()
        .for_each(|oneof| oneof.options = None);
    message.field.iter_mut().for_each(prune_field);
    message.nested_type.iter_mut().for_each(prune_message);
    message.enum_type.iter_mut().for_each(prune_enum);
}

fn prune_field(field: &mut FieldDescriptorProto) {
    field.options = field
        .options
        .take()
        .and_then(|options| options.packed)
        .map(|packed| FieldOptions {
            packed: Some(packed),
            ..FieldOptions::default()
        });
    // The pool makes the usual JSON name itself.
    if field.json_name.as_deref() == Some(&usual_json_name(field.name())) {
        field.json_name = None;
    }
}

fn prune_enum(enumeration: &mut EnumDescriptorProto) {
    enumeration.reserved_range.clear();
    enumeration.reserved_name.clear();
    enumeration.options = enumeration
        .options
        .take()
        .and_then(|options| options.allow_alias)
        .map(|allow_alias| EnumOptions {
            allow_alias: Some(allow_alias),
            ..EnumOptions::default()
        });
    enumeration
        .value
        .iter_mut()
        .for_each(|value| value.options = None);
}

fn usual_json_name(name: &str) -> String {
    let mut json = String::with_capacity(name.len());
    let mut upper = false;
    for c in name.chars() {
        if c == '_' {
            upper = true;
        } else if std::mem::take(&mut upper) {
            json.push(c.to_ascii_uppercase());
        } else {
            json.push(c);
        }
    }
    json
}

fn message_refs(message: &DescriptorProto, used: &mut BTreeSet<String>) {
    used.extend(
        message
            .field
            .iter()
            .filter_map(|field| field.type_name.clone()),
    );
    for nested in &message.nested_type {
        message_refs(nested, used);
    }
}

/// The full names, with their leading dot, that a file defines.
fn defined(file: &FileDescriptorProto) -> BTreeSet<String> {
    fn walk(prefix: &str, message: &DescriptorProto, names: &mut BTreeSet<String>) {
        let name = format!("{prefix}.{}", message.name());
        names.extend(
            message
                .enum_type
                .iter()
                .map(|enumeration| format!("{name}.{}", enumeration.name())),
        );
        for nested in &message.nested_type {
            walk(&name, nested, names);
        }
        names.insert(name);
    }
    let prefix = if file.package().is_empty() {
        String::new()
    } else {
        format!(".{}", file.package())
    };
    let mut names: BTreeSet<String> = file
        .enum_type
        .iter()
        .map(|enumeration| format!("{prefix}.{}", enumeration.name()))
        .collect();
    for message in &file.message_type {
        walk(&prefix, message, &mut names);
    }
    names
}
