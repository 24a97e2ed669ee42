//! Functions of an ELF file and where they lie in it.

use std::{collections::HashMap, fs::File};

use object::{
    Object as _, ObjectSegment as _, ObjectSymbol as _, ReadCache, SymbolKind,
    read::Result as ReadResult,
};

/// The functions of an ELF file by name.
#[derive(Debug)]
pub struct Elf {
    functions: HashMap<String, u64>,
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
        let mut functions = HashMap::new();
        for symbol in object.symbols().chain(object.dynamic_symbols()) {
            if symbol.kind() != SymbolKind::Text || symbol.is_undefined() {
                continue;
            }
            if let Ok(name) = symbol.name()
                && wanted(name)
                && let Some(offset) = file_offset(&object, symbol.address())
            {
                functions.insert(name.to_owned(), offset);
            }
        }
        Ok(Self { functions })
    }

    /// Offset in the file of a function's first instruction.
    pub fn function(&self, name: &str) -> Option<u64> {
        self.functions.get(name).copied()
    }
}

/// The loadable segment that holds `address` says where it is in the file (elf(5), `PT_LOAD`).
fn file_offset<'a>(object: &impl object::Object<'a>, address: u64) -> Option<u64> {
    object.segments().find_map(|segment| {
        let (offset, size) = segment.file_range();
        let within = address.checked_sub(segment.address())?;
        (within < size).then(|| offset + within)
    })
}
