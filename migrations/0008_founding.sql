-- Which founding of a cluster the data belongs to. The row comes with the first transaction of a new database, from a restore, or, for a
-- database from before this file, from the master that raises the level: only it knows the cluster's name.

-- One row: the founding of the cluster that this data belongs to. Two clusters of one name are told apart by it.
CREATE TABLE tanist_founding (
    id       INTEGER PRIMARY KEY CHECK (id = 1),
    cluster  TEXT NOT NULL,                       -- the cluster's name
    founding BLOB NOT NULL CHECK (length(founding) = 16) -- random
) STRICT;
