//! The storage beneath a repository, with blocking calls.
//!
//! A thin layer over `object_store`: it checks keys, sorts errors, and offers only what a write-once repository may do:
//! create, read, list, and delete for what was abandoned. Nothing is ever overwritten or renamed.
//!
//! *Local directories.* Objects are files below the root. A new object is written to a staging file `<key>#<n>` beside
//! its place, flushed, then put in place (a hard link for [`Store::put_new`], so that it fails where the key exists) and
//! the directory flushed. A crash leaves at most a staging file, which listings do not show. Local I/O happens on the
//! calling thread; no runtime is started, so that short commands stay short.
//!
//! *Access.* The root and the folders directly below it are created with mode 0750 (less what the umask takes), so that
//! nobody outside the owner and the group reaches the files, whatever modes those have.

use std::collections::{BTreeSet, HashSet};
use std::fmt;
use std::fs::{DirBuilder, File};
use std::future::Future;
use std::io;
use std::ops::Range;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::TryStreamExt;
use jiff::Timestamp;
use object_store::local::LocalFileSystem;
use object_store::path::Path as ObjectPath;
use object_store::{
    GetOptions, GetRange, MultipartUpload, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload,
};

use crate::error::Result;
use crate::{RepoError, key};

/// How much an [`Upload`] gathers before it hands a part to the storage.
pub const PART_SIZE: usize = 8 << 20;

/// Removals in more folders than this are flushed with the whole file system.
const MOST_FOLDER_FLUSHES: usize = 16;

/// Where a repository lies. Cheap to clone; clones share everything.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    location: String,
    objects: Arc<dyn ObjectStore>,
    /// The directory, when the storage is a local one.
    root: Option<PathBuf>,
    /// Folders directly below the root that are known to exist with the right mode.
    folders: Mutex<HashSet<String>>,
}

/// One object of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Its key.
    pub key: String,
    /// Its size in bytes.
    pub size: u64,
    /// When it was last written, by the clock of the storage.
    pub modified: Timestamp,
}

impl Store {
    /// Opens the storage at `location`: a path of a directory, or `file://` and an absolute path.
    ///
    /// # Errors
    /// [`RepoError::NotARepository`] where the directory does not exist, [`RepoError::BadLocation`] where the location is
    /// of a kind that is not supported.
    pub fn open(location: &str) -> Result<Store> {
        let path = local_path(location)?;
        match std::fs::metadata(&path) {
            Ok(metadata) if metadata.is_dir() => Store::open_local(location, &path),
            Ok(_) => Err(bad_location(location, "it is not a directory")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(RepoError::NotARepository { location: location.to_owned() })
            }
            Err(error) => Err(RepoError::from_store("open", location, error)),
        }
    }

    /// Opens the storage at `location`, making the directory (mode 0750) and those above it where they are missing.
    ///
    /// # Errors
    /// As [`Store::open`], and when the directory cannot be made.
    pub fn open_or_create(location: &str) -> Result<Store> {
        let path = local_path(location)?;
        let error = |error| RepoError::from_store("create", location, error);
        if !path.exists() {
            let mut missing = Vec::new();
            let mut next = path.as_path();
            while !next.as_os_str().is_empty() && !next.exists() {
                missing.push(next.to_owned());
                match next.parent() {
                    Some(parent) => next = parent,
                    None => break,
                }
            }
            for directory in missing.iter().rev() {
                make_directory(directory).map_err(error)?;
            }
        }
        Store::open(location)
    }

    fn open_local(location: &str, path: &Path) -> Result<Store> {
        let root = std::fs::canonicalize(path).map_err(|e| RepoError::from_store("open", location, e))?;
        let objects = LocalFileSystem::new_with_prefix(&root)
            .map_err(|e| RepoError::from_store("open", location, e))?
            .with_fsync(true);
        Ok(Store::assemble(location.to_owned(), Arc::new(objects), Some(root)))
    }

    /// A store over any object store, for tests that inject faults.
    #[must_use]
    pub fn from_object_store(location: &str, objects: Arc<dyn ObjectStore>) -> Store {
        Store::assemble(location.to_owned(), objects, None)
    }

    fn assemble(location: String, objects: Arc<dyn ObjectStore>, root: Option<PathBuf>) -> Store {
        Store { inner: Arc::new(Inner { location, objects, root, folders: Mutex::default() }) }
    }

    /// The location as it was given.
    #[must_use]
    pub fn location(&self) -> &str {
        &self.inner.location
    }

    /// The directory, when the storage is a local one: for asking about free space and permissions.
    #[must_use]
    pub fn local_root(&self) -> Option<&Path> {
        self.inner.root.as_deref()
    }

    /// Runs one call of the object store. Local ones do their I/O on this thread.
    fn run<F: Future>(&self, call: F) -> F::Output {
        futures::executor::block_on(call)
    }

    /// Stores a new object, durably. `false` when the key exists already; the object that is there stays untouched,
    /// and is durable too when this returns.
    ///
    /// # Errors
    /// When the storage fails.
    pub fn put_new(&self, key: &str, bytes: impl Into<Bytes>) -> Result<bool> {
        self.put_new_chunks(key, vec![bytes.into()])
    }

    /// As [`Store::put_new`], from several pieces that need not be copied together.
    ///
    /// # Errors
    /// When the storage fails.
    pub fn put_new_chunks(&self, key: &str, chunks: Vec<Bytes>) -> Result<bool> {
        let path = object_path(key)?;
        self.make_folder(key)?;
        let options = PutOptions::from(PutMode::Create);
        match self.run(self.inner.objects.put_opts(&path, PutPayload::from_iter(chunks), options)) {
            Ok(_) => Ok(true),
            Err(object_store::Error::AlreadyExists { .. }) => {
                self.settle(key)?;
                Ok(false)
            }
            Err(error) if self.inner.root.is_some() && crate::error::lacks_links(&error) => {
                Err(bad_location(self.location(), "its file system has no hard links"))
            }
            Err(error) => Err(RepoError::from_store("write", key, error)),
        }
    }

    /// Makes the existing object durable: whoever wrote it may have been killed before the directory was flushed.
    fn settle(&self, key: &str) -> Result<()> {
        let Some(root) = &self.inner.root else { return Ok(()) };
        let path = root.join(key);
        let sync = || -> io::Result<()> {
            File::open(&path)?.sync_all()?;
            match path.parent() {
                Some(parent) => File::open(parent)?.sync_all(),
                None => Ok(()),
            }
        };
        sync().map_err(|e| RepoError::from_store("flush", key, e))
    }

    /// Makes the folder directly below the root that `key` lies in, readable for owner and group only.
    fn make_folder(&self, key: &str) -> Result<()> {
        let Some(root) = &self.inner.root else { return Ok(()) };
        let Some((folder, _)) = key.split_once('/') else { return Ok(()) };
        let mut folders = self.inner.folders.lock().unwrap_or_else(PoisonError::into_inner);
        if !folders.contains(folder) {
            match make_directory(&root.join(folder)) {
                Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(RepoError::from_store("create", folder, e));
                }
                _ => folders.insert(folder.to_owned()),
            };
        }
        Ok(())
    }

    /// The whole object.
    ///
    /// # Errors
    /// [`RepoError::NotFound`], or when the storage fails.
    pub fn get(&self, key: &str) -> Result<Bytes> {
        let path = object_path(key)?;
        self.run(async { self.inner.objects.get(&path).await?.bytes().await }).map_err(|e| reading(key, e))
    }

    /// The whole object; none where there is none.
    ///
    /// # Errors
    /// When the storage fails.
    pub fn get_optional(&self, key: &str) -> Result<Option<Bytes>> {
        match self.get(key) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(RepoError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Exactly the bytes of `range`.
    ///
    /// # Errors
    /// [`RepoError::NotFound`], [`RepoError::Corrupt`] where the object is shorter, or when the storage fails.
    pub fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes> {
        let path = object_path(key)?;
        let wanted = range.end.saturating_sub(range.start);
        if wanted == 0 {
            return Ok(Bytes::new());
        }
        match self.run(self.inner.objects.get_range(&path, range.clone())) {
            Ok(bytes) if bytes.len() as u64 == wanted => Ok(bytes),
            Ok(bytes) => Err(ends_early(key, range.start.saturating_add(bytes.len() as u64))),
            Err(error @ object_store::Error::NotFound { .. }) => Err(reading(key, error)),
            Err(error) => match self.head(key)? {
                Some(size) if size < range.end => Err(ends_early(key, size)),
                _ => Err(reading(key, error)),
            },
        }
    }

    /// The first `length` bytes of the object, fewer where it is shorter, and its whole size.
    ///
    /// # Errors
    /// [`RepoError::NotFound`], or when the storage fails.
    pub fn get_start(&self, key: &str, length: u64) -> Result<(Bytes, u64)> {
        let path = object_path(key)?;
        let options = GetOptions { range: Some(GetRange::Bounded(0..length)), ..GetOptions::default() };
        let read = async {
            let answer = self.inner.objects.get_opts(&path, options).await?;
            let size = answer.meta.size;
            Ok((answer.bytes().await?, size))
        };
        match self.run(read) {
            Ok(answer) => Ok(answer),
            Err(error @ object_store::Error::NotFound { .. }) => Err(reading(key, error)),
            // A range cannot be satisfied by an empty object.
            Err(error) => match self.head(key)? {
                Some(0) => Ok((Bytes::new(), 0)),
                _ => Err(reading(key, error)),
            },
        }
    }

    /// The size of the object in bytes; none where there is none.
    ///
    /// # Errors
    /// When the storage fails.
    pub fn head(&self, key: &str) -> Result<Option<u64>> {
        let path = object_path(key)?;
        match self.run(self.inner.objects.head(&path)) {
            Ok(meta) => Ok(Some(meta.size)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(RepoError::from_store("examine", key, error)),
        }
    }

    /// All objects below the folder `prefix` (all at all when it is empty), sorted by key.
    ///
    /// # Errors
    /// When the storage fails.
    pub fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>> {
        let path = prefix_path(prefix)?;
        let listing = self.inner.objects.list(path.as_ref());
        let listed = self.run(listing.map_ok(object_info).try_collect::<Vec<_>>());
        let mut found = listed.map_err(|e| RepoError::from_store("list", prefix, e))?;
        found.retain(|object| key::is_valid(&object.key));
        found.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(found)
    }

    /// The last parts of what lies directly in the folder `prefix`: objects and folders, sorted.
    ///
    /// # Errors
    /// When the storage fails.
    pub fn list_names(&self, prefix: &str) -> Result<Vec<String>> {
        let path = prefix_path(prefix)?;
        let listed = self
            .run(self.inner.objects.list_with_delimiter(path.as_ref()))
            .map_err(|e| RepoError::from_store("list", prefix, e))?;
        let keys = listed.common_prefixes.into_iter().chain(listed.objects.into_iter().map(|o| o.location));
        let mut names: Vec<String> = keys.filter_map(|k| k.filename().map(str::to_owned)).collect();
        names.retain(|name| key::is_valid_part(name));
        names.sort();
        names.dedup();
        Ok(names)
    }

    /// Something that is in the way of a new repository: anything, except what a file system puts there by itself, and
    /// the folder of an `init` that was cut off.
    pub(crate) fn foreign_entry(&self) -> Result<Option<String>> {
        let names = match &self.inner.root {
            None => self.list_names("")?,
            Some(root) => {
                let list = || -> io::Result<Vec<String>> {
                    std::fs::read_dir(root)?
                        .map(|e| Ok(e?.file_name().to_string_lossy().into_owned()))
                        .collect()
                };
                list().map_err(|e| RepoError::from_store("list", self.location(), e))?
            }
        };
        Ok(names.into_iter().filter(|name| name != "lost+found" && name != key::REPOSITORY_FOLDER).min())
    }

    /// Begins to write a new object in pieces; it exists when [`Upload::finish`] has returned.
    ///
    /// # Errors
    /// [`RepoError::AlreadyExists`] where the key exists, or when the storage fails.
    pub fn upload(&self, key: &str) -> Result<Upload> {
        let path = object_path(key)?;
        self.make_folder(key)?;
        self.refuse_existing(key)?;
        let parts = self
            .run(self.inner.objects.put_multipart(&path))
            .map_err(|e| RepoError::from_store("write", key, e))?;
        Ok(Upload { store: self.clone(), key: key.to_owned(), parts, waiting: Vec::new(), waiting_bytes: 0 })
    }

    fn refuse_existing(&self, key: &str) -> Result<()> {
        match self.head(key)? {
            Some(_) => Err(RepoError::AlreadyExists { key: key.to_owned() }),
            None => Ok(()),
        }
    }

    /// Removes an object of an abandoned backup, or one that retention gave up. Not an error where there is none.
    ///
    /// # Errors
    /// When the storage fails.
    pub fn delete(&self, key: &str) -> Result<()> {
        let path = object_path(key)?;
        match self.run(self.inner.objects.delete(&path)) {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(RepoError::from_store("delete", key, error)),
        }
    }
}

impl Store {
    /// As [`Store::delete`], and the object stays removed whatever happens to the machine.
    ///
    /// # Errors
    /// When the storage fails.
    pub fn delete_durably(&self, key: &str) -> Result<()> {
        self.delete(key)?;
        self.flush_removals(&[key.to_owned()])
    }

    /// Makes sure that these objects, which were deleted, stay removed whatever happens to the machine.
    ///
    /// # Errors
    /// When the storage fails.
    pub(crate) fn flush_removals(&self, keys: &[String]) -> Result<()> {
        let Some(root) = &self.inner.root else { return Ok(()) };
        let flushed = if keys.len() > MOST_FOLDER_FLUSHES {
            // One for each folder would take a while; this takes one, and what others wrote with it.
            File::open(root).and_then(|root| Ok(rustix::fs::syncfs(root)?))
        } else {
            let folders: BTreeSet<PathBuf> =
                keys.iter().filter_map(|key| Some(root.join(key).parent()?.to_owned())).collect();
            folders.iter().try_for_each(|folder| match File::open(folder) {
                Ok(folder) => folder.sync_all(),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                Err(error) => Err(error),
            })
        };
        flushed.map_err(|error| RepoError::from_store("flush", self.location(), error))
    }

    /// Removes what a local directory keeps of a folder whose objects are gone: staging files that a crash left, and the
    /// folder itself. Nobody may write to it any more. Best effort: what stays is not visible.
    pub(crate) fn clear_folder(&self, prefix: &str) {
        let Some(root) = self.inner.root.as_ref().filter(|_| key::is_valid(prefix)) else { return };
        let folder = root.join(prefix);
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().contains('#') {
                drop(std::fs::remove_file(entry.path()));
            }
        }
        drop(std::fs::remove_dir(folder));
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Store({})", self.inner.location)
    }
}

/// An object that is being written in pieces. Dropped without [`Upload::finish`], it never existed.
pub struct Upload {
    store: Store,
    key: String,
    parts: Box<dyn MultipartUpload>,
    waiting: Vec<Bytes>,
    waiting_bytes: usize,
}

impl Upload {
    /// Appends bytes. They are taken over as they are, and reach the storage in parts of [`PART_SIZE`].
    ///
    /// # Errors
    /// When the storage fails; the upload cannot be finished then.
    pub fn write(&mut self, bytes: impl Into<Bytes>) -> Result<()> {
        let bytes = bytes.into();
        self.waiting_bytes += bytes.len();
        self.waiting.push(bytes);
        if self.waiting_bytes >= PART_SIZE { self.send() } else { Ok(()) }
    }

    fn send(&mut self) -> Result<()> {
        self.waiting_bytes = 0;
        let payload = PutPayload::from_iter(std::mem::take(&mut self.waiting));
        let part = self.parts.put_part(payload);
        self.store.run(part).map_err(|e| RepoError::from_store("write", &self.key, e))
    }

    /// Makes the object exist, durably.
    ///
    /// The storage cannot be asked to refuse an existing key here (a local directory replaces it), so the key is looked
    /// up just before; what keeps two writers apart is that keys of uploads hold an epoch that only one of them claimed.
    ///
    /// # Errors
    /// [`RepoError::AlreadyExists`] where the key exists by now, or when the storage fails.
    pub fn finish(mut self) -> Result<()> {
        let finished = self.complete();
        if finished.is_err() {
            self.discard();
        }
        finished
    }

    fn complete(&mut self) -> Result<()> {
        if !self.waiting.is_empty() {
            self.send()?;
        }
        self.store.refuse_existing(&self.key)?;
        let completed = self.store.run(self.parts.complete());
        completed.map(drop).map_err(|e| RepoError::from_store("write", &self.key, e))
    }

    /// Gives up; nothing of the object stays.
    pub fn abort(mut self) {
        self.discard();
    }

    /// Best effort: what cannot be removed is rubbish that listings do not show.
    fn discard(&mut self) {
        drop(self.store.run(self.parts.abort()));
    }
}

impl fmt::Debug for Upload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Upload({})", self.key)
    }
}

fn make_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o750).create(path)?;
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => File::open(parent)?.sync_all(),
        _ => Ok(()),
    }
}

fn local_path(location: &str) -> Result<PathBuf> {
    if location.is_empty() {
        return Err(bad_location(location, "it is empty"));
    }
    if let Some(path) = location.strip_prefix("file://") {
        if !path.starts_with('/') {
            return Err(bad_location(location, "`file://` must be followed by an absolute path"));
        }
        return Ok(PathBuf::from(path));
    }
    match location.split_once("://") {
        Some((scheme, _)) if scheme.bytes().all(|b| b.is_ascii_alphanumeric()) => {
            Err(bad_location(location, &format!("`{scheme}://` is not supported")))
        }
        _ => Ok(PathBuf::from(location)),
    }
}

fn bad_location(location: &str, what: &str) -> RepoError {
    RepoError::BadLocation { location: location.to_owned(), what: what.to_owned() }
}

fn object_path(key: &str) -> Result<ObjectPath> {
    if !key::is_valid(key) {
        return Err(RepoError::unrepresentable(format!("an object with the key `{key}`")));
    }
    ObjectPath::parse(key).map_err(|e| RepoError::from_store("name", key, e))
}

fn prefix_path(prefix: &str) -> Result<Option<ObjectPath>> {
    if prefix.is_empty() { Ok(None) } else { object_path(prefix).map(Some) }
}

fn object_info(meta: object_store::ObjectMeta) -> ObjectInfo {
    let modified = Timestamp::new(
        meta.last_modified.timestamp(),
        i32::try_from(meta.last_modified.timestamp_subsec_nanos()).unwrap_or(0),
    );
    ObjectInfo {
        key: meta.location.as_ref().to_owned(),
        size: meta.size,
        modified: modified.unwrap_or(Timestamp::UNIX_EPOCH),
    }
}

fn reading(key: &str, error: object_store::Error) -> RepoError {
    match error {
        object_store::Error::NotFound { .. } => RepoError::NotFound { key: key.to_owned() },
        error => RepoError::from_store("read", key, error),
    }
}

fn ends_early(key: &str, size: u64) -> RepoError {
    RepoError::corrupt(key, size, "the object ends too early")
}
