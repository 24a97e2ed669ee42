//! Functions of an ELF file, where they lie in it, and their code.

use std::{collections::HashMap, fs::File, io, os::unix::fs::FileExt as _};

use object::{
    Architecture, Object as _, ObjectSegment as _, ObjectSymbol as _, ReadCache, SegmentFlags,
    SymbolKind, elf::PF_X, read::Result as ReadResult,
};

/// What is needed of an ELF file.
#[derive(Debug)]
pub struct Elf {
    file: File,
    architecture: Architecture,
    build_id: Option<Vec<u8>>,
    functions: HashMap<String, u64>,
    segments: Vec<Segment>,
}

/// A loadable segment (elf(5), `PT_LOAD`).
#[derive(Clone, Copy, Debug)]
struct Segment {
    address: u64,
    offset: u64,
    bytes: u64,
    executable: bool,
}

impl Elf {
    /// Reads the symbols of a file whose name `wanted` accepts. Only what is needed is read.
    ///
    /// # Errors
    ///
    /// The file is no ELF file, or is malformed.
    pub fn read(file: &File, wanted: impl Fn(&str) -> bool) -> ReadResult<Self> {
        let cache = ReadCache::new(file);
        let object = object::File::parse(&cache)?;
        let segments = object
            .segments()
            .map(|segment| {
                let (offset, bytes) = segment.file_range();
                let flags = segment.flags();
                Segment {
                    address: segment.address(),
                    offset,
                    bytes,
                    executable: matches!(flags, SegmentFlags::Elf { p_flags } if p_flags & PF_X != 0),
                }
            })
            .collect();
        let mut functions = HashMap::new();
        for symbol in object.symbols().chain(object.dynamic_symbols()) {
            if symbol.kind() != SymbolKind::Text || symbol.is_undefined() {
                continue;
            }
            if let Ok(name) = symbol.name()
                && wanted(name)
            {
                functions.insert(name.to_owned(), symbol.address());
            }
        }
        let build_id = object.build_id().ok().flatten().map(<[u8]>::to_vec);
        Ok(Self {
            file: file
                .try_clone()
                .map_err(|_| object_error("the file cannot be kept open"))?,
            architecture: object.architecture(),
            build_id,
            functions,
            segments,
        })
    }

    /// The processor that the code is for.
    pub fn architecture(&self) -> Architecture {
        self.architecture
    }

    /// What the linker wrote to tell builds apart, if it did (`NT_GNU_BUILD_ID`).
    pub fn build_id(&self) -> Option<&[u8]> {
        self.build_id.as_deref()
    }

    /// Address of a function's first instruction, as linked.
    pub fn function(&self, name: &str) -> Option<u64> {
        let address = self.functions.get(name).copied()?;
        self.file_offset(address).map(|_| address)
    }

    /// Where in the file an address of the code lies.
    pub fn file_offset(&self, address: u64) -> Option<u64> {
        let segment = self.code_segment(address)?;
        Some(segment.offset + (address - segment.address))
    }

    /// Up to `limit` bytes of code from an address on.
    ///
    /// # Errors
    ///
    /// There is no code at the address, or the file cannot be read.
    pub fn code(&self, address: u64, limit: usize) -> io::Result<Vec<u8>> {
        let segment = self
            .code_segment(address)
            .ok_or_else(|| io::Error::other("no code at this address"))?;
        let within = address - segment.address;
        let bytes = usize::try_from(segment.bytes - within)
            .unwrap_or(limit)
            .min(limit);
        let mut code = vec![0; bytes];
        self.file
            .read_exact_at(&mut code, segment.offset + within)?;
        Ok(code)
    }

    fn code_segment(&self, address: u64) -> Option<&Segment> {
        self.segments.iter().find(|segment| {
            segment.executable
                && address
                    .checked_sub(segment.address)
                    .is_some_and(|within| within < segment.bytes)
        })
    }
}

fn object_error(text: &'static str) -> object::Error {
    object::File::parse(text.as_bytes())
        .err()
        .unwrap_or_else(|| unreachable!("{text} is no object file"))
}
