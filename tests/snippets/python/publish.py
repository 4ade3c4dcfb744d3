"""Saves a résumé and publishes resume.parsed in one transaction: both commit, or neither."""

import os

import psycopg
from psycopg.types.json import Jsonb


def save_resume(conn, candidate, position):
    with conn.transaction():
        (resume_id,) = conn.execute(
            "insert into resumes (candidate, position) values (%s, %s) returning id",
            (candidate, position),
        ).fetchone()
        payload = {
            "candidate": {"name": candidate},
            "position": position,
            "resume_url": f"https://hire.example.com/resumes/{resume_id}",
        }
        (event_id,) = conn.execute(
            "select notification_publish('resume.parsed', %s, idempotency_key => %s)",
            (Jsonb(payload), f"resume-{resume_id}"),
        ).fetchone()
    return event_id


with psycopg.connect(os.environ["DATABASE_URL"]) as conn:
    print(save_resume(conn, "张三", "Go 后端工程师"))
