-- A token or a secret that somebody took for a target is masked, too, with no URL around it: a long run of hex digits, which
-- no robot is named. All else is as in V4.
create or replace function public.notification_mask_target(target text) returns text
language sql immutable parallel safe
as $$
    select case
        when target operator(pg_catalog.~) '^[A-Za-z][A-Za-z0-9+.-]*://'
            then pg_catalog.regexp_replace(
                target, '^([^:]+://)(?:[^/?#\\]*@)?(\[[0-9A-Fa-f:.]*\]|[^]/?#@\\:[]*)(:[0-9]+)?.*$', '\1\2\3/***')
        when target operator(pg_catalog.~) '[]/?#@=&:\\[:space:][]' then '***'
        when target operator(pg_catalog.~) '^(SEC)?[0-9A-Fa-f-]{32,}$' then '***'
        else target
    end
$$;
