"""Databases as one-api and new-api leave them: the tables with their real columns, filled a little."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

ONE_API = """
CREATE TABLE channels (id integer PRIMARY KEY, type integer DEFAULT 0, key text, status integer DEFAULT 1,
  name text, weight integer DEFAULT 0, created_time bigint, test_time bigint, response_time integer,
  base_url text DEFAULT '', other text, balance real, balance_updated_time bigint, models text,
  "group" varchar(32) DEFAULT 'default', used_quota bigint DEFAULT 0, model_mapping varchar(1024) DEFAULT '',
  priority bigint DEFAULT 0, config text, system_prompt text);
CREATE TABLE tokens (id integer PRIMARY KEY, user_id integer, key char(48), status integer DEFAULT 1,
  name text,
  created_time bigint, accessed_time bigint, expired_time bigint DEFAULT -1, remain_quota bigint DEFAULT 0,
  unlimited_quota numeric DEFAULT false, used_quota bigint DEFAULT 0, models text, subnet text DEFAULT '');
CREATE TABLE users (id integer PRIMARY KEY, username text, password text, display_name text,
  role integer, status integer DEFAULT 1, email text, github_id text, access_token char(32),
  quota bigint DEFAULT 0,
  used_quota bigint DEFAULT 0, request_count integer, "group" varchar(32) DEFAULT 'default',
  aff_code varchar(32),
  inviter_id integer);
CREATE TABLE options (key text PRIMARY KEY, value text);
CREATE TABLE abilities ("group" varchar(32), model text, channel_id integer, enabled numeric,
  priority bigint);
"""
NEW_API = """
CREATE TABLE channels (id integer PRIMARY KEY, type integer DEFAULT 0, key text, openai_organization text,
  test_model text, status integer DEFAULT 1, name text, weight integer DEFAULT 0, created_time bigint,
  base_url text DEFAULT '', other text, balance real, models text, "group" varchar(64) DEFAULT 'default',
  used_quota bigint, model_mapping text, status_code_mapping varchar(1024) DEFAULT '',
  priority bigint DEFAULT 0,
  auto_ban integer DEFAULT 1, other_info text, tag text, setting text, param_override text,
  header_override text,
  remark varchar(255), channel_info json, settings text);
CREATE TABLE tokens (id integer PRIMARY KEY, user_id integer, key varchar(128), status integer DEFAULT 1,
  name text, created_time bigint, accessed_time bigint, expired_time bigint DEFAULT -1, remain_quota integer,
  unlimited_quota numeric, model_limits_enabled numeric, model_limits text, allow_ips text DEFAULT '',
  used_quota integer, "group" text DEFAULT '', cross_group_retry numeric, deleted_at datetime);
CREATE TABLE users (id integer PRIMARY KEY, username text, password text, display_name text, role integer,
  status integer DEFAULT 1, email text, quota integer DEFAULT 0, used_quota integer, "group" varchar(64)
  DEFAULT 'default', setting text, deleted_at datetime);
CREATE TABLE options (key text PRIMARY KEY, value text);
"""
OPENAI_KEY = "sk-proj-written-in-the-old-database-0001"
ANTHROPIC_KEY = "sk-ant-api03-written-in-the-old-database"


def database(path: Path, schema: str, tables: Mapping[str, Sequence[Mapping[str, Any]]]) -> Path:
    """A database with these rows."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executescript(schema)
        for table, rows in tables.items():
            for row in rows:
                names = ", ".join(f'"{name}"' for name in row)
                marks = ", ".join("?" * len(row))
                connection.execute(f"INSERT INTO {table} ({names}) VALUES ({marks})", list(row.values()))
    return path


ONE_API_ROWS: dict[str, list[dict[str, Any]]] = {
    "channels": [
        {"id": 1, "type": 1, "key": OPENAI_KEY, "name": "OpenAI main",
         "models": "gpt-4o,gpt-4o-mini,my-tuned",
         "group": "default,vip", "priority": 10, "weight": 3, "balance": 12.5,
         "model_mapping": json.dumps({"my-tuned": "ft:gpt-4o:acme::abc"})},
        {"id": 2, "type": 3, "key": "azure-key-written-out", "name": "azure-eu", "models": "gpt-4o",
         "base_url": "https://acme.openai.azure.com", "group": "default,vip", "priority": 10, "weight": 1,
         "config": json.dumps({"api_version": "2024-10-21"})},
        {"id": 3, "type": 14, "key": ANTHROPIC_KEY, "name": "claude", "models": "claude-sonnet-4-5",
         "group": "vip", "system_prompt": "Be brief."},
        {"id": 4, "type": 36, "key": "sk-a-deepseek\nsk-another-deepseek", "name": "deepseek",
         "models": "deepseek-chat", "priority": 0},
        {"id": 5, "type": 33, "key": "", "name": "aws", "models": "claude-3-haiku-20240307",
         "config": json.dumps({"region": "us-west-2", "ak": "AKIAEXAMPLE", "sk": "aws-secret-example"}),
         "model_mapping": json.dumps({"claude-3-haiku-20240307": "anthropic.claude-3-haiku-20240307-v1:0"})},
        {"id": 6, "type": 18, "key": "x", "name": "xunfei", "models": "SparkDesk"},
        {"id": 7, "type": 1, "key": "x", "name": "old", "models": "gpt-4", "status": 2},
        {"id": 8, "type": 30, "key": "", "name": "ollama", "base_url": "http://gpu-box:11434",
         "models": "llama3.2"},
    ],
    "users": [
        {"id": 1, "username": "root", "password": "$2a$10$x", "role": 100, "quota": 500_000_000_000,
         "group": "vip"},
        {"id": 2, "username": "anna", "role": 1, "quota": 6_172_839, "email": "anna@example.com",
         "github_id": "anna", "group": "default"},
        {"id": 3, "username": "gone", "role": 1, "status": 2, "quota": 500_000},
    ],
    "tokens": [
        {"id": 1, "user_id": 2, "key": "a" * 48, "name": "laptop", "remain_quota": 250_001,
         "unlimited_quota": 0, "expired_time": 4_102_444_800, "models": "gpt-4o", "subnet": "10.0.0.0/8"},
        {"id": 2, "user_id": 1, "key": "b" * 48, "name": "ci", "remain_quota": 0, "unlimited_quota": 1},
        {"id": 3, "user_id": 2, "key": "c" * 48, "name": "expired", "expired_time": 1_600_000_000},
        {"id": 4, "user_id": 3, "key": "d" * 48, "name": "of-gone", "unlimited_quota": 1},
    ],
    "options": [
        {"key": "ModelRatio", "value": json.dumps({"gpt-4o": 1.25, "gpt-4o-mini": 0.075, "my-tuned": 1.875,
                                                   "deepseek-chat": 0.1428})},
        {"key": "CompletionRatio", "value": '{"gpt-4o": 4, "gpt-4o-mini": 4, "my-tuned": 4}'},
        {"key": "GroupRatio", "value": '{"default": 1, "vip": 0.8}'},
        {"key": "QuotaPerUnit", "value": "500000"},
        {"key": "SystemName", "value": "My API"},
        {"key": "TopUpLink", "value": ""},
    ],
}  # fmt: skip
NEW_API_ROWS: dict[str, list[dict[str, Any]]] = {
    "channels": [
        {"id": 1, "type": 42, "key": "mistral-key-written-out", "name": "mistral",
         "models": "mistral-large-latest", "auto_ban": 1, "tag": "eu",
         "header_override": json.dumps({"X-Team": "acme"}), "setting": json.dumps({"force_format": True})},
        {"id": 2, "type": 33, "key": "AKIANEW|secret-new|eu-west-1", "name": "aws",
         "models": "anthropic.claude-3-haiku-20240307-v1:0"},
        {"id": 3, "type": 41, "key": "{}", "name": "vertex", "models": "gemini-2.5-pro"},
        {"id": 4, "type": 24, "key": "gemini-key-written-out", "name": "gemini",
         "models": "gemini-2.5-flash"},
    ],
    "users": [{"id": 7, "username": "lee", "quota": 1_000_000, "setting": '{"notify_type":"email"}'}],
    "tokens": [
        {"id": 1, "user_id": 7, "key": "e" * 48, "name": "default", "remain_quota": 500_000,
         "unlimited_quota": 0,
         "model_limits_enabled": 1, "model_limits": "gemini-2.5-flash", "allow_ips": "10.1.2.3\n10.9.0.0/16"},
        {"id": 2, "user_id": 7, "key": "f" * 48, "name": "deleted", "unlimited_quota": 1,
         "deleted_at": "2026-01-01 00:00:00"},
    ],
    "options": [
        {"key": "ModelRatio", "value": '{"gemini-2.5-flash": 0.15, "mistral-large-latest": 1}'},
        {"key": "CompletionRatio", "value": '{"gemini-2.5-flash": 8.333333333333334}'},
        {"key": "CacheRatio", "value": '{"gemini-2.5-flash": 0.25}'},
        {"key": "ModelPrice", "value": '{"mistral-large-latest": 0.01}'},
    ],
}  # fmt: skip
