-- A number keeps its exponent in jsonb and loses it in text: 60 kB of payload such as {"a": [1e131071, ...]} are 500 MB once
-- a consumer reads them, and a few such rows are more than it can hold, again after each restart. So the text has a
-- bound, too. By their names these are looked at after the others, so that what is too large anyway is not written out.
-- Not validated: that would read the table under a lock that keeps everybody out, for rows that are done by then.
alter table public.notification_events
    add constraint payload_text_must_be_at_most_256_kb
        check (octet_length(payload::text) <= 262144) not valid,
    add constraint options_text_must_be_at_most_64_kb
        check (octet_length(options::text) <= 65536) not valid;
