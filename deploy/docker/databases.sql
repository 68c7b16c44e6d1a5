-- Not tried here: compose.yaml has PostgreSQL do this when it makes its files. The tables come from Tiled.
CREATE DATABASE tiled_catalog;
CREATE DATABASE tiled_tables;
