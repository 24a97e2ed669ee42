//! GnuTLS (gnutls/gnutls.h): wget, glib-networking, curl's GnuTLS build.
//!
//! What programs that are clients of HTTP do not use is left out: `gnutls_record_recv_packet`, whose bytes
//! are fetched by other functions, and early data.

use std::path::{Path, PathBuf};

use observer_common::{Cookie, count, function};

use super::{Family, Finding, Found, Library, Probe, openssl::files};
use crate::attach::{
    elf::Elf,
    scan::Clues,
    site::{self, Needs},
};

/// The functions, what each does and what its probe needs. `gnutls_record_send` may pass through
/// `gnutls_record_send2`: of calls on one session, one inside the other, the innermost counts.
const FUNCTIONS: &[(&str, u8, Needs)] = &[
    ("gnutls_record_send", function::WRITE, Needs::Transfer),
    ("gnutls_record_send2", function::WRITE, Needs::Transfer),
    ("gnutls_record_recv", function::READ_TO_END, Needs::Transfer),
    (
        "gnutls_record_recv_seq",
        function::READ_TO_END,
        Needs::Transfer,
    ),
    (
        "gnutls_record_uncork",
        function::FLUSH,
        Needs::FirstAndResult,
    ),
    ("gnutls_bye", function::SHUTDOWN, Needs::First),
    ("gnutls_deinit", function::FREE, Needs::First),
];

/// See the module.
pub(super) struct GnuTls;

impl Library for GnuTls {
    fn name(&self) -> &'static str {
        "GnuTLS"
    }

    fn usual_files(&self, root: &Path) -> Vec<PathBuf> {
        files(root, |name| name.starts_with("libgnutls.so"))
    }

    fn find(&self, elf: &Elf, _: &Clues) -> Finding {
        if elf.function("gnutls_record_send").is_none()
            || elf.function("gnutls_record_recv").is_none()
        {
            return Finding::Absent;
        }
        let mut probes = Vec::new();
        for &(name, function, needs) in FUNCTIONS {
            let Some(address) = elf.function(name) else {
                continue;
            };
            let site = site::direct(elf, address, needs)
                .unwrap_or_else(|| site::entry(elf, address, needs));
            let Some(offset) = elf.file_offset(site.address) else {
                return Finding::Refused(format!("{name} is not in the file"));
            };
            probes.push(Probe {
                functions: vec![name.to_owned()],
                site,
                offset,
                cookie: Cookie::new(function, count::RESULT_OR_GNUTLS_ERROR),
                returns: needs != Needs::First,
                family: Family::C,
            });
        }
        Finding::Found(Found {
            how: "symbols".to_owned(),
            probes,
        })
    }
}
