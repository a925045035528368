CREATE OR REPLACE FUNCTION warehouse.slow(seconds double precision)
 RETURNS double precision
 LANGUAGE plpgsql
AS $function$
begin
  perform pg_sleep(seconds);
  return seconds;
end
$function$
