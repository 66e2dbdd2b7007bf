//! What the linker is told of the programs of one role, in builds of profile slim
//! (docs/decisions/0013-programs-of-one-role.md).
//!
//! What a proxy runs through until it is idle is put together (`order/ROLE.ld`, linker scripts that `bench/run order` writes): the
//! system maps a file's pages by sixteen and more, so that code which is scattered is mostly in memory, and code which is in
//! one place is only where it is. Callgrind finds no names in that place, so other builds go without.

use std::env::var;

fn main() {
    println!("cargo::rerun-if-changed=order");
    // For the build that the lists are written from.
    println!("cargo::rerun-if-env-changed=WAYMARK_ORDER");
    let is = |name: &str, value: &str| var(name).is_ok_and(|v| v == value);
    // The linker that Rust brings for this target reads such scripts, as does GNU's; another one may not.
    let known = is("CARGO_CFG_TARGET_OS", "linux") && is("CARGO_CFG_TARGET_ENV", "gnu");
    let slim = is("OPT_LEVEL", "s");
    if !known || !slim {
        return;
    }
    // Relocations in a thirtieth of the space. glibc has read these since 2.36.
    println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    if is("WAYMARK_ORDER", "none") {
        return;
    }
    let here = var("CARGO_MANIFEST_DIR").unwrap_or_default();
    for role in ["waypoint", "node"] {
        if var(format!("CARGO_FEATURE_{}", role.to_uppercase())).is_ok() {
            println!("cargo::rustc-link-arg-bins={here}/order/{role}.ld");
        }
    }
}
