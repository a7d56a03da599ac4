//! Opening: the lock file, the schema, and the check after an unclean shutdown.

use std::fs::{self, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::{Connection, ErrorCode, OpenFlags};
use tokio::sync::mpsc;
use uuid::Uuid;

use super::reader::Readers;
use super::recent::Recent;
use super::reserve::Reserve;
use super::writer::Writer;
use super::{QUEUE, Shared, SqliteStore};
use crate::changes::ChangeLog;
use crate::clock::{Clock, SystemClock};
use crate::lease::Deadlines;
use crate::limits::Limited;
use crate::store::StoreId;

/// "NGST": marks the file as ours for file(1) and for us (<https://sqlite.org/pragma.html#pragma_application_id>).
const APPLICATION_ID: i32 = 0x4e47_5354;
const SCHEMA_VERSION: i32 = 1;

/// Keeps the index of the WAL in the memory of this process, and all others out
/// (<https://sqlite.org/vfs.html#standard_unix_vfses>). SQLite's usual one maps a file, of which the kernel allocates
/// blocks when they are first written to: on a full disk that ends the process with SIGBUS, where a page is more than
/// one block.
const VFS: &str = "unix-excl";

/// `kv` has a rowid, so that records of one to four KiB stay inline in its leaves and rewriting one does not touch
/// the index of keys. `revision` has one row per revision: the newest is the store's, the others say what became of
/// recent transactions (`txn` is null for what leases did).
const SCHEMA: &str = "
    CREATE TABLE meta (name TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID;
    CREATE TABLE kv (
        id INTEGER PRIMARY KEY,
        key BLOB NOT NULL UNIQUE,
        value BLOB NOT NULL,
        rev INTEGER NOT NULL,
        lease INTEGER
    ) STRICT;
    CREATE INDEX kv_lease ON kv (lease) WHERE lease IS NOT NULL;
    CREATE TABLE revision (rev INTEGER PRIMARY KEY, txn BLOB, applied INTEGER NOT NULL) STRICT;
    CREATE TABLE lease (id INTEGER PRIMARY KEY, ttl_ms INTEGER NOT NULL) STRICT;
    INSERT INTO revision VALUES (0, NULL, 1);
";

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Another server has it.
    #[error(
        "open store {path}: process {holder} is using it; stop that server or choose another data directory"
    )]
    Locked {
        /// The store.
        path: PathBuf,
        /// The pid of the holder as it wrote it, or "unknown".
        holder: String,
    },
    /// A file operation failed.
    #[error("{attempt} {path}")]
    File {
        /// What was tried.
        attempt: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The file belongs to something else.
    #[error("open store {path}: it is not a Neargate store; move it away or choose another data directory")]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// The store was written by another version of Neargate.
    #[error(
        "open store {path}: it has schema version {found}, this program knows {known}; use the version that wrote it"
    )]
    Version {
        /// The store.
        path: PathBuf,
        /// Its version.
        found: i32,
        /// Ours.
        known: i32,
    },
    /// The check after an unclean shutdown found damage.
    #[error("open store {path}: it is damaged ({finding}); restore it from a backup")]
    Damaged {
        /// The store.
        path: PathBuf,
        /// The first finding.
        finding: String,
    },
    /// SQLite does not write ahead there.
    #[error("open store {path}: its file system does not support SQLite's WAL mode; use a local file system")]
    NoWal {
        /// The store.
        path: PathBuf,
    },
    /// SQLite refused something else.
    #[error("{attempt} of store {path}")]
    Sqlite {
        /// What was tried.
        attempt: &'static str,
        /// The store.
        path: PathBuf,
        /// What SQLite said.
        #[source]
        source: rusqlite::Error,
    },
    /// The writer thread could not be started.
    #[error("start the writer of store {path}")]
    Writer {
        /// The store.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

/// How to open a [`SqliteStore`].
pub struct SqliteOptions {
    clock: Arc<dyn Clock>,
    bytes_max: Option<u64>,
    reserve: Option<(u64, Box<dyn Fn() -> bool + Send>)>,
}

impl Default for SqliteOptions {
    fn default() -> Self {
        Self { clock: Arc::new(SystemClock::default()), bytes_max: None, reserve: None }
    }
}

impl SqliteOptions {
    /// Uses this clock for leases and ages.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Keeps the database file within this size; writes beyond it are `Full`. Rounded down to whole pages.
    #[must_use]
    pub fn bytes_max(mut self, bytes_max: u64) -> Self {
        self.bytes_max = Some(bytes_max);
        self
    }

    /// Keeps `bytes` in the database and as many in the WAL for writes on a full disk. They are made, after the store
    /// was opened and whenever they are used up, while `has_room` says that the disk takes three times as many.
    #[must_use]
    pub fn reserve(mut self, bytes: u64, has_room: impl Fn() -> bool + Send + 'static) -> Self {
        self.reserve = Some((bytes, Box::new(has_room)));
        self
    }

    /// Opens the store, as [`SqliteStore::open`].
    pub fn open(self, path: impl AsRef<Path>) -> Result<Limited<SqliteStore>, OpenError> {
        let path = path.as_ref();
        let lock = LockFile::take(path)?;
        let cx = Context { path };
        create(path)?;
        let db = cx.connect(OpenFlags::SQLITE_OPEN_READ_WRITE, "connect the writer")?;
        cx.check_owner(&db)?;
        cx.configure(&db, self.bytes_max)?;
        if lock.unclean {
            cx.check_integrity(&db)?;
        }
        let id = cx.store_id(&db)?;
        let state = Writer::load(&db, self.clock.now());
        let (rev, fates, leases) = cx.sqlite("read the state", state)?;
        let readers = Readers::open(|| cx.connect(OpenFlags::SQLITE_OPEN_READ_ONLY, "connect a reader"))?;

        let deadlines = Deadlines::default();
        for (lease, ttl) in leases {
            deadlines.grant(lease, ttl, self.clock.now());
        }
        let shared = Arc::new(Shared {
            log: Arc::new(ChangeLog::new(rev)),
            deadlines,
            clock: self.clock,
            recent: Recent::new(rev),
        });
        let (commands, queue) = mpsc::channel(QUEUE);
        let reserve = self.reserve.map(|(bytes, has_room)| Reserve::new(path, bytes, has_room));
        let writer = Writer::new(db, lock, shared.clone(), queue, rev, fates).with(reserve);
        let writer = writer.spawn().map_err(|source| OpenError::Writer { path: path.to_owned(), source })?;
        Ok(Limited::new(SqliteStore {
            id,
            shared,
            readers: Some(readers),
            commands: Some(commands),
            writer: Some(writer),
        }))
    }
}

/// Creates the file before SQLite does, so that nobody else can ever read it; the WAL inherits its mode.
fn create(path: &Path) -> Result<(), OpenError> {
    let error = |attempt| move |source| OpenError::File { attempt, path: path.to_owned(), source };
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(_) => {
            let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
            let directory = directory.unwrap_or(Path::new("."));
            File::open(directory).and_then(|dir| dir.sync_all()).map_err(error("sync the directory of store"))
        }
        Err(source) if source.kind() == io::ErrorKind::AlreadyExists => {
            fs::set_permissions(path, Permissions::from_mode(0o600))
                .map_err(error("restrict access to store"))
        }
        Err(source) => Err(error("create store")(source)),
    }
}

/// Everything below needs the path only to say what it was doing.
struct Context<'a> {
    path: &'a Path,
}

impl Context<'_> {
    fn sqlite<T>(&self, attempt: &'static str, result: rusqlite::Result<T>) -> Result<T, OpenError> {
        result.map_err(|source| match source.sqlite_error_code() {
            Some(ErrorCode::NotADatabase) => OpenError::Foreign { path: self.path.to_owned() },
            Some(ErrorCode::DatabaseCorrupt) => {
                OpenError::Damaged { path: self.path.to_owned(), finding: source.to_string() }
            }
            _ => OpenError::Sqlite { attempt, path: self.path.to_owned(), source },
        })
    }

    fn connect(&self, mode: OpenFlags, attempt: &'static str) -> Result<Connection, OpenError> {
        // No mutex in SQLite: the writer has its thread, each reader its own mutex.
        let flags = mode | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let db = self.sqlite(attempt, Connection::open_with_flags_and_vfs(self.path, flags, VFS))?;
        db.set_prepared_statement_cache_capacity(32);
        // Another process has the file only while a person looks at it with sqlite3; wait for them rather than fail.
        self.sqlite(attempt, db.busy_timeout(std::time::Duration::from_secs(5)))?;
        Ok(db)
    }

    /// Accepts our schema version, and creates it in an empty file. Looks before it changes anything.
    fn check_owner(&self, db: &Connection) -> Result<(), OpenError> {
        const ATTEMPT: &str = "read the version";
        let read = |pragma: &str| self.sqlite(ATTEMPT, db.query_row(pragma, [], |row| row.get::<_, i32>(0)));
        let application = read("PRAGMA application_id")?;
        let found = read("PRAGMA user_version")?;
        let tables = read("SELECT count(*) FROM sqlite_master")?;
        match (application, found) {
            (APPLICATION_ID, SCHEMA_VERSION) => Ok(()),
            (APPLICATION_ID, _) => {
                Err(OpenError::Version { path: self.path.to_owned(), found, known: SCHEMA_VERSION })
            }
            (0, 0) if tables == 0 => self.sqlite("create the schema", create_schema(db)),
            _ => Err(OpenError::Foreign { path: self.path.to_owned() }),
        }
    }

    fn configure(&self, db: &Connection, bytes_max: Option<u64>) -> Result<(), OpenError> {
        const ATTEMPT: &str = "configure the writer";
        let mode = db.query_row("PRAGMA journal_mode = WAL", [], |row| row.get::<_, String>(0));
        if self.sqlite(ATTEMPT, mode)? != "wal" {
            return Err(OpenError::NoWal { path: self.path.to_owned() });
        }
        // The writer checkpoints by itself, after it has answered.
        let pragmas = "PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 0;
                       PRAGMA journal_size_limit = 67108864; PRAGMA trusted_schema = OFF;";
        self.sqlite(ATTEMPT, db.execute_batch(pragmas))?;
        if let Some(bytes_max) = bytes_max {
            let size = db.query_row("PRAGMA page_size", [], |row| row.get::<_, u32>(0));
            let pages = (bytes_max / u64::from(self.sqlite(ATTEMPT, size)?)).max(1);
            self.sqlite(ATTEMPT, db.execute_batch(&format!("PRAGMA max_page_count = {pages}")))?;
        }
        Ok(())
    }

    fn check_integrity(&self, db: &Connection) -> Result<(), OpenError> {
        tracing::info!(path = %self.path.display(), "the store was not closed cleanly; checking it");
        let finding = db.query_row("PRAGMA quick_check(1)", [], |row| row.get::<_, String>(0));
        match self.sqlite("check the integrity", finding)? {
            ok if ok == "ok" => Ok(()),
            finding => Err(OpenError::Damaged { path: self.path.to_owned(), finding }),
        }
    }

    fn store_id(&self, db: &Connection) -> Result<StoreId, OpenError> {
        let id =
            db.query_row("SELECT value FROM meta WHERE name = 'id'", [], |row| row.get::<_, [u8; 16]>(0));
        Ok(StoreId(Uuid::from_bytes(self.sqlite("read the id", id)?)))
    }
}

fn create_schema(db: &Connection) -> rusqlite::Result<()> {
    let tx = db.unchecked_transaction()?;
    tx.execute_batch(SCHEMA)?;
    tx.execute("INSERT INTO meta VALUES ('id', ?1)", [Uuid::new_v4().as_bytes()])?;
    tx.pragma_update(None, "application_id", APPLICATION_ID)?;
    tx.pragma_update(None, "user_version", SCHEMA_VERSION)?;
    tx.commit()
}

/// `<store>.lock`, held with flock(2) as long as the store is open. It holds our pid, and is emptied by a clean
/// close; so one found with a pid means that the last server was killed.
pub(super) struct LockFile {
    file: File,
    unclean: bool,
}

impl LockFile {
    pub(super) fn take(store: &Path) -> Result<Self, OpenError> {
        let mut path = store.as_os_str().to_owned();
        path.push(".lock");
        let path = PathBuf::from(path);
        let error = |attempt| {
            let path = path.clone();
            move |source| OpenError::File { attempt, path, source }
        };
        let options =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
        let mut file = options.map_err(error("open lock file"))?;
        let locked = file.try_lock();
        let mut pid = String::new();
        // Bounded: whatever else the file may be, we print no more than this of it.
        Read::by_ref(&mut file).take(20).read_to_string(&mut pid).map_err(error("read lock file"))?;
        match locked {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let pid = pid.trim();
                let holder = if pid.is_empty() { "unknown" } else { pid }.to_owned();
                return Err(OpenError::Locked { path: store.to_owned(), holder });
            }
            Err(TryLockError::Error(source)) => return Err(error("lock")(source)),
        }
        let mut lock = Self { file, unclean: !pid.is_empty() };
        lock.write(&format!("{}\n", std::process::id())).map_err(error("write lock file"))?;
        Ok(lock)
    }

    /// Says that the store was closed cleanly. The lock itself goes with the file.
    pub(super) fn mark_clean(&mut self) -> io::Result<()> {
        self.write("")
    }

    fn write(&mut self, text: &str) -> io::Result<()> {
        self.file.rewind()?;
        // In this order it needs no room on a full disk where there was a pid.
        self.file.write_all(text.as_bytes())?;
        self.file.set_len(text.len() as u64)?;
        self.file.sync_all()
    }
}
