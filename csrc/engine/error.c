#include <stdarg.h>
#include <stdio.h>

#include "model.h"

pl_status pl_fail(pl_error *error, pl_status status, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(error->text, sizeof error->text, format, args);
    va_end(args);
    return status;
}
