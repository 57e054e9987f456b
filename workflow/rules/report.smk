# The HTML report: figures and tables with captions, and how each was made.


rule report_page:
    input:
        FIGURE_FILES,
        TABLE_FILES,
        table("claims"),
    output:
        html=f"{RESULTS}/report.html",
    log:
        f"{LOGS}/report.log",
    benchmark:
        f"{BENCHMARKS}/report.tsv"
    conda:
        "../../envs/relstab.yaml"
    threads: 1
    resources:
        mem_mb=growing(4000),
        runtime=growing(30),
    script:
        "../scripts/report.py"
